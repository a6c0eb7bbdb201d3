// What the page asks of the server: a recording's text as it is found, subtitles, a recording read in noise.

export class ServerError extends Error {}

const GONE = "The server does not answer.  See whether avsr serve is still running, then try again.";

// The server's answer. Throws ServerError, whose message is one sentence for people.
async function ask(address, options, key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(GONE);
  }
  if (!answer.ok) throw new ServerError(await reasonOf(answer));
  return answer;
}

async function reasonOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server refuses this (${answer.status}).`;
  }
}

// {model, modalities, ...}: what this server can do.
export async function about() { return (await ask("page/about", {})).json(); }

// Calls onEvent with each server-sent event of the text of a file, as OpenAI's interface has them, until it is complete.
export async function transcribe(file, fields, key, signal, onEvent) {
  const body = new FormData();
  body.append("file", file, file.name || "recording");
  const all = { model: "whisper-1", response_format: "verbose_json", stream: "true", mouths: "true", ...fields };
  for (const [name, value] of Object.entries(all)) body.append(name, value);
  for (const kind of ["word", "segment"]) body.append("timestamp_granularities[]", kind);
  const answer = await ask("v1/audio/transcriptions", { method: "POST", body, signal }, key);
  let rest = "", complete = false;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const events = (rest + piece.value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const lines of events) {
        const data = lines.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trimStart()).join("\n");
        if (!data || data === "[DONE]") continue;
        const event = JSON.parse(data);
        if (event.error) throw new ServerError(event.error.message);
        complete ||= event.type === "transcript.text.done";
        onEvent(event);
      }
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError(GONE);
  }
  if (!complete) throw new ServerError("The server ended before the text was complete.  Try again.");
}

// The subtitles that a transcript makes, as a Blob.
export async function subtitles(transcript, format, key) {
  const { text, language, duration, segments } = transcript;
  const body = JSON.stringify({ text, language, duration, segments });
  return (await ask(`page/subtitles/${format}`, { method: "POST", body, headers: { "Content-Type": "application/json" } }, key)).blob();
}

// {snr_db, sound, texts}: a recording read in noise, see noisy.py.
export async function inNoise(file, fields, key, signal) {
  const body = new FormData();
  body.append("file", file, file.name || "recording");
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return (await ask("page/noisy", { method: "POST", body, signal }, key)).json();
}

// The address of the WebSocket.
export function liveAddress() {
  const address = new URL("v1/live", document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}
