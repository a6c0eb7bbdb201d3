// A live recording: devices -> Capture -> WebSocket /v1/live -> events for the page.

import { Capture, openDevices } from "./capture.js";
import { liveAddress } from "./server.js";

const RECORDINGS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const SOUND_RECORDINGS = ["audio/webm;codecs=opus", "audio/mp4"];
const LONGEST_REPLAY = 20 * 60 * 1000;                       // milliseconds that this page keeps, so that words can be played

export class Live {
  // on: functions stream, text, mouth, problem, done, failed. fields: modality, speakers, key.
  constructor(video, fields, on) {
    Object.assign(this, { video, fields, on, parts: [], ended: false });
  }

  async start() {
    const sound = this.fields.modality !== "v", picture = this.fields.modality !== "a" || this.fields.speakers;
    const { stream, problems } = await openDevices(sound, picture);
    this.stream = stream;
    problems.forEach(this.on.problem);
    this.video.srcObject = stream;
    this.video.muted = true;
    await this.video.play();
    this.on.stream(stream);
    this.capture = new Capture(stream, this.video, {
      send: message => this.socket.readyState === WebSocket.OPEN && this.socket.send(message),
      unsent: () => this.socket.bufferedAmount, problem: this.on.problem });
    const sampleRate = await this.capture.open();
    if (this.ended) return this.close();
    this.socket = new WebSocket(liveAddress());
    this.socket.onopen = () => this.socket.send(JSON.stringify({
      type: "start", media: "pcm", sample_rate: sampleRate, modality: this.fields.modality, speakers: this.fields.speakers,
      sound: stream.getAudioTracks().length > 0, picture: stream.getVideoTracks().length > 0, api_key: this.fields.key || null }));
    this.socket.onmessage = event => this.receive(JSON.parse(event.data));
    this.socket.onclose = () => this.gone();
  }

  receive(message) {
    if (message.type === "ready") {
      this.capture.start();
      this.record();
      this.on.ready(message);
    } else if (message.type === "error") {
      this.fail(message.error.message);
    } else if (message.type === "done") {
      this.finished = message.transcript;
      this.close();
      this.recorded().then(blob => this.on.done(message.transcript, blob, this.offset));
    } else {
      this.on[message.type]?.(message.type === "problem" ? message.message : message);
    }
  }

  // The words of the rest come before `done`.
  end() {
    this.ended = true;
    this.capture?.stop();
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send('{"type": "end"}');
    else this.fail("The recording was ended before it had begun.");
  }

  gone() {
    if (!this.finished && !this.failed) this.fail(
      "The connection to the server is gone.  See whether avsr serve is still running, then press Live again.");
  }

  fail(sentence) {
    this.failed = true;
    this.close();
    this.recorded().then(blob => this.on.failed(sentence, blob, this.offset));
  }

  // Ends everything without a word.
  close() {
    this.ended = true;
    this.capture?.stop();
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.recorder?.state === "recording") this.recorder.stop();
    this.socket?.close();
  }

  // Keep a small copy in this page, so that words can be heard and seen again.
  record() {
    const hasPicture = this.stream.getVideoTracks().length > 0;
    const kind = (hasPicture ? RECORDINGS : SOUND_RECORDINGS).find(one => globalThis.MediaRecorder?.isTypeSupported(one));
    if (!kind) return;
    this.recorder = new MediaRecorder(this.stream, { mimeType: kind, videoBitsPerSecond: 600_000, audioBitsPerSecond: 48_000 });
    this.recorder.ondataavailable = event => event.data.size && this.parts.push(event.data);
    this.recorder.onstart = () => { this.began = performance.now(); };
    this.recorder.start(1000);
    setTimeout(() => this.recorder.state === "recording" && this.recorder.stop(), LONGEST_REPLAY);
  }

  // Seconds from the first sample to the start of the copy.
  get offset() { return this.began && this.capture.zero !== null ? (this.began - this.capture.zero) / 1000 : 0; }

  async recorded() {
    if (!this.recorder) return null;
    if (this.recorder.state !== "inactive") await new Promise(done => { this.recorder.onstop = done; this.recorder.stop(); });
    await new Promise(done => setTimeout(done));             // the last piece comes just before
    return this.parts.length ? new Blob(this.parts, { type: this.recorder.mimeType }) : null;
  }
}
