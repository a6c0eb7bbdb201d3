// The page: a file or a live recording in, words out as they are found.

import { CaptureError } from "./capture.js";
import { Live } from "./live.js";
import { Noise } from "./noise.js";
import { about, ServerError, subtitles, transcribe } from "./server.js";
import { percent, Words } from "./words.js";

const find = name => document.getElementById(name);
const player = find("player"), mouthVideo = find("mouth-video"), mouthPicture = find("mouth-picture");
const options = find("options"), problems = find("problems"), status = find("status");
const words = new Words(find("text"), find("detail"), ["detail", "how", "legend"].map(find), play);
const noise = new Noise(find("noise"), { recording: () => now.file, key });
let now = {};                                                // what is shown: file, transcript, live, controller, offset, ...
let server = { modalities: [] };

function key() { return options.elements.key.value; }
function chosen() {
  const form = new FormData(options);
  return { modality: form.get("modality"), speakers: form.get("speakers") === "on", key: key() };
}

// ---- what the page says

function say(sentence) { status.textContent = sentence; }

function warn(sentence) {
  if ([...problems.children].some(one => one.textContent === sentence)) return;
  const item = document.createElement("li");
  item.textContent = sentence;
  problems.append(item);
}

function believe(share) {
  find("believed").textContent = share === null || share === undefined ? "" : `believed ${percent(share)}`;
  find("belief").hidden = share === null || share === undefined;
  find("belief").value = share ?? 0;
}

// ---- begin anew

function begin() {
  now.controller?.abort();
  now.live?.close();
  for (const address of now.addresses ?? []) URL.revokeObjectURL(address);
  now = { addresses: [], controller: new AbortController(), segments: [], offset: 0 };
  words.clear();
  noise.show(false);
  problems.replaceChildren();
  for (const name of ["downloads", "mouth", "stop", "mouth-picture", "mouth-video"]) find(name).hidden = true;
  for (const name of ["detail", "log"]) find(name).textContent = "";
  for (const video of [player, mouthVideo]) { video.srcObject = null; video.removeAttribute("src"); video.load(); }
  player.className = "";
  player.hidden = false;
  player.controls = true;
  document.body.classList.remove("live");
  believe(null);
  find("result").hidden = false;
  document.body.classList.add("busy");
  return now;
}

function addressOf(blob) {
  const address = URL.createObjectURL(blob);
  now.addresses.push(address);
  return address;
}

// ---- a file

async function readFile(file) {
  const mine = begin();
  mine.file = file;
  player.src = addressOf(file);
  player.muted = false;
  say(`Reading ${file.name}…`);
  const { modality, speakers } = chosen();
  const fields = { modality, ...(speakers && { speakers: "true" }) };
  try {
    await transcribe(file, fields, key(), mine.controller.signal, event => mine === now && fileEvent(event));
    if (mine === now) finish(mine.transcript, `${file.name} is read.${now.unplayable ? " The browser cannot play it." : ""}`);
  } catch (error) {
    if (error.name === "AbortError" || mine !== now) return;
    if (!(error instanceof ServerError)) throw error;
    say("");
    warn(error.message.replace(/^(recording|file): /, `${file.name}: `));
    find("result").hidden = !words.words.length;
  }
}

function fileEvent(event) {
  if (event.type === "transcript.text.segment") {
    const { type, ...segment } = event;
    now.segments.push(segment);                              // as they come: the page knows their times before all is read
    words.add(rowsOf(segment));
    announce(segment.text);
    say(`Read up to ${segment.end.toFixed(0)} s…`);
  } else if (event.type === "transcript.text.done") {
    const { type, mouths, ...transcript } = event;
    now.transcript = transcript;
    showMouths(mouths);
  }
}

function rowsOf(segment) {
  const known = { speaker: segment.speaker };
  return segment.words?.length ? segment.words.map(word => ({ ...known, ...word })) : [{
    ...known, word: segment.text, start: segment.start, end: segment.end, confidence: segment.confidence ?? null }];
}

function showMouths(mouths) {
  if (!mouths) return;
  const bytes = Uint8Array.from(atob(mouths), letter => letter.charCodeAt(0));
  mouthVideo.src = addressOf(new Blob([bytes], { type: "video/mp4" }));
  mouthVideo.hidden = find("mouth").hidden = false;
  const [first] = now.segments;
  if (first) mouthVideo.currentTime = (first.start + first.end) / 2;       // before, nobody may be in sight
  believe(first?.lips_reliability);
}

function finish(transcript, sentence) {
  now.transcript = transcript;
  for (const problem of transcript.problems ?? []) warn(problem.replace(/^recording: /, `${now.file?.name ?? "live"}: `));
  say(words.words.length ? sentence : "No words were found.");
  find("downloads").hidden = !words.words.length;
  noise.show(Boolean(now.file) && server.modalities.includes("a"));
}

// Tells a screen reader what was found.
function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  find("log").append(line);
  while (find("log").children.length > 20) find("log").firstChild.remove();
}

// ---- live

async function goLive() {
  const mine = begin();
  say("Waiting for the camera and the microphone…");
  player.controls = false;
  document.body.classList.add("live");
  status.scrollIntoView({ block: "start" });
  mine.live = new Live(player, chosen(), {
    stream: stream => {
      player.classList.toggle("mirror", stream.getVideoTracks().length > 0);
      player.classList.toggle("sound", !stream.getVideoTracks().length);
      find("stop").hidden = false;
      say("Loading…");
    },
    ready: ready => say(`Listening${ready.modality === "a" ? "" : ready.modality === "v" ? " to lips alone" : " and watching"}…`),
    text: message => mine === now && liveText(message),
    mouth: message => {
      if (mine !== now) return;
      mouthPicture.src = `data:image/jpeg;base64,${message.jpeg}`;
      mouthPicture.hidden = find("mouth").hidden = false;
      believe(message.believed);
    },
    problem: sentence => mine === now && warn(sentence),
    done: (transcript, blob, offset) => mine === now && liveOver(blob, offset, transcript),
    failed: (sentence, blob, offset) => { if (mine === now) { warn(sentence); liveOver(blob, offset, null); } },
  });
  try {
    await mine.live.start();
  } catch (error) {
    if (mine !== now) return;
    mine.live.close();
    if (!(error instanceof CaptureError)) throw error;
    find("result").hidden = true;
    document.body.classList.remove("live");
    say("");
    warn(error.message);
  }
}

function liveText(message) {
  words.add(message.committed);
  words.setPending(message.pending);
  if (message.committed.length) announce(message.committed.map(word => word.word).join("").trim());
  say(`${clock(message.end)}, the text is ${message.behind.toFixed(1)} s behind`);
  const { bottom } = find("text").getBoundingClientRect();
  if (bottom > innerHeight && bottom < innerHeight + 200) scrollBy({ top: bottom - innerHeight + 80 });
}

function clock(seconds) { return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`; }

function liveOver(blob, offset, transcript) {
  find("stop").hidden = true;
  document.body.classList.remove("live");
  words.setPending([]);
  player.srcObject = null;
  player.classList.remove("mirror");
  player.controls = true;
  now.offset = offset;
  if (blob) {
    now.file = new File([blob], "live.webm", { type: blob.type });
    player.src = addressOf(blob);
    player.muted = false;
  }
  if (transcript) finish(transcript, "The recording has ended. It is only in this page, and gone when you close it.");
  else say("");
}

// ---- play a word

function play(start, end) {
  if (!player.src || now.unplayable) return;
  player.currentTime = Math.max(0, start - now.offset - 0.12);
  now.until = end - now.offset + 0.12;
  player.play().catch(() => {});                            // it was paused at once, by another word
  follow();
}

// While the recording plays: the word that is said, the mouth, and the end of a word that was asked for.
function follow() {
  const time = player.currentTime + now.offset;
  words.at(time);
  if (!mouthVideo.hidden) {
    if (Math.abs(mouthVideo.currentTime - player.currentTime) > 0.15) mouthVideo.currentTime = player.currentTime;
    const segment = now.segments.find(one => time >= one.start && time <= one.end);
    if (segment) believe(segment.lips_reliability);
  }
  if (now.until !== undefined && player.currentTime >= now.until) {
    now.until = undefined;
    player.pause();
  }
  if (!player.paused && !player.ended) requestAnimationFrame(follow);
}

player.addEventListener("play", () => { mouthVideo.hidden || mouthVideo.play().catch(() => {}); requestAnimationFrame(follow); });
player.addEventListener("pause", () => { now.until = undefined; mouthVideo.pause(); });
player.addEventListener("seeked", follow);
player.addEventListener("loadedmetadata", () => {
  player.classList.toggle("sound", !player.videoWidth && !player.srcObject);
  if (player.duration === Infinity) {                        // of a browser's own recording: found by going to its end
    player.addEventListener("seeked", () => { player.currentTime = 0; }, { once: true });
    player.currentTime = 1e9;
  }
});
player.addEventListener("error", () => { if (player.src) player.hidden = now.unplayable = true; });

// ---- download

async function download(format) {
  const blob = format === "json" ? new Blob([`${JSON.stringify(now.transcript, null, 1)}\n`], { type: "application/json" }) :
    await subtitles(now.transcript, format, key());
  const link = document.createElement("a");
  link.href = addressOf(blob);
  link.download = `${(now.file?.name ?? "live").replace(/\.[^.]*$/, "")}.${format}`;
  link.click();
}

// ---- wiring

find("file").addEventListener("change", event => {
  const [file] = event.target.files;
  event.target.value = "";                                   // so that the same file can be chosen again
  if (file) readFile(file);
});
find("go-live").addEventListener("click", goLive);
find("stop").addEventListener("click", () => { say("Reading the rest…"); find("stop").hidden = true; now.live?.end(); });
find("downloads").addEventListener("click", event => {
  const format = event.target.dataset.format;
  if (format) download(format).catch(error => warn(error.message));
});
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, event => {
  event.preventDefault();
  find("drop").classList.add("over");
});
for (const kind of ["dragleave", "drop"]) addEventListener(kind, event => {
  event.preventDefault();
  if (kind === "drop" || !event.relatedTarget) find("drop").classList.remove("over");
});
addEventListener("drop", event => {
  const [file] = event.dataTransfer.files;
  if (file) readFile(file);
});

const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
find("privacy").textContent = here ?
  "Live video leaves neither this machine nor its memory. Nothing is kept: a file is read, and its copy is gone when it is done." :
  `What you give goes to ${location.hostname} and no further. Live video stays in its memory, and nothing is kept.`;
async function learnOfServer() {
  server = await about();
  if (server.status === "loading") {
    say("The model is being loaded…");
    await new Promise(done => setTimeout(done, 500));
    return learnOfServer();
  }
  if (status.textContent === "The model is being loaded…") say("");
  find("about").textContent = `Model ${server.id}, avsr ${server.version}`;
  find("key-field").hidden = !server.needs_key;
  noise.describe(server);
  for (const radio of options.elements.modality) {
    if (radio.value === "auto" || server.modalities.includes(radio.value)) continue;
    radio.disabled = true;
    find("cannot").textContent = server.reads_lips ? `The model ${server.id} cannot go by one of the two alone.` :
      `The model ${server.id} does not read lips.`;
    find("cannot").hidden = false;
  }
}

learnOfServer().catch(error => warn(error.message));
