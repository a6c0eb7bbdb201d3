// Camera and microphone to the server, with as little delay as can be: sound as PCM, pictures as JPEG, no coder that waits.
// The protocol is that of /v1/live. Sound sample 0 is time 0; pictures are placed on that clock.

const PICTURES = 25, WIDTH = 640, HEIGHT = 480, QUALITY = 0.85;
const TOO_MUCH = 2 ** 20;                                    // bytes not sent yet, above which pictures are left out

const REASONS = {
  NotAllowedError: "The browser may not use the camera or the microphone.  Allow it, at the address bar or in the system's " +
    "settings, then press Live again.",
  NotFoundError: "No camera and no microphone is connected.  Connect one, then press Live again.",
  NotReadableError: "The camera or the microphone is in use by another program.  Close that, then press Live again.",
  OverconstrainedError: "The camera cannot give pictures of the size that is needed.  Use another one.",
};

export class CaptureError extends Error {}

// {stream, problems}: what this machine has of sound and picture. Throws CaptureError where it has nothing that is wanted.
export async function openDevices(wantSound, wantPicture) {
  if (!navigator.mediaDevices) throw new CaptureError(
    "The browser gives its camera only to pages of this machine or over HTTPS.  Open the page at http://127.0.0.1 or over HTTPS.");
  const sound = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
  const picture = { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, frameRate: { ideal: PICTURES, max: 30 } };
  const asked = { audio: wantSound && sound, video: wantPicture && picture };
  try {
    return { stream: await navigator.mediaDevices.getUserMedia(asked), problems: [] };
  } catch (error) {
    if (error.name !== "NotFoundError" || !(wantSound && wantPicture)) throw new CaptureError(reasonOf(error));
  }
  for (const [one, lacks] of [[{ audio: sound }, "No camera is connected, so only sound is used."],
                              [{ video: picture }, "No microphone is connected, so only lips are read."]]) {
    try {
      return { stream: await navigator.mediaDevices.getUserMedia(one), problems: [lacks] };
    } catch (error) {
      if (error.name !== "NotFoundError") throw new CaptureError(reasonOf(error));
    }
  }
  throw new CaptureError(REASONS.NotFoundError);
}

function reasonOf(error) { return REASONS[error.name] ?? `The camera or the microphone cannot be used (${error.name}).`; }

export class Capture {
  // send(buffer): sends a message; unsent(): bytes that wait to be sent; problem(sentence).
  constructor(stream, video, { send, unsent, problem }) {
    Object.assign(this, { stream, video, send, unsent, problem });
    this.zero = null;                                        // when sample 0 was taken, by performance.now()
    this.samples = 0;
    this.lastPicture = -1;
    this.coding = false;
    this.canvas = document.createElement("canvas");
    [this.soundTrack] = stream.getAudioTracks();
    [this.pictureTrack] = stream.getVideoTracks();
  }

  // Opens what turns the sound into samples; its rate must be known before the first message.
  async open() {
    if (this.soundTrack) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      await this.context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
      await this.context.resume();
    }
    return this.context ? Math.round(this.context.sampleRate) : 16000;
  }

  start() {
    for (const [track, what] of [[this.soundTrack, "microphone"], [this.pictureTrack, "camera"]]) {
      if (!track) continue;
      track.addEventListener("ended", () => this.problem(`The ${what} has gone.  Connect it, then press Live again.`));
      if (track.muted && what === "microphone") this.problem("The microphone is muted by the system.  Unmute it.");
    }
    if (this.soundTrack) {
      this.node = new AudioWorkletNode(this.context, "pieces", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      this.node.port.onmessage = event => this.sound(event.data);
      this.source = this.context.createMediaStreamSource(this.stream);
      this.source.connect(this.node);
    }
    if (this.pictureTrack) this.nextPicture();
  }

  sound(samples) {
    this.samples += samples.length;
    const zero = performance.now() - 1000 * this.samples / this.context.sampleRate;
    this.zero = this.zero === null ? zero : Math.min(this.zero, zero);       // a message may come late, but never early
    const message = new Uint8Array(1 + samples.byteLength);
    message[0] = 1;
    message.set(new Uint8Array(samples.buffer), 1);
    this.send(message.buffer);
  }

  nextPicture() {
    if (this.video.requestVideoFrameCallback) {
      this.waiting = this.video.requestVideoFrameCallback((now, about) => this.picture(about.captureTime ?? now));
    } else {
      this.timer = setTimeout(() => this.picture(performance.now()), 1000 / PICTURES);
    }
  }

  picture(taken) {
    if (this.stopped) return;
    this.nextPicture();
    if (this.zero === null && !this.soundTrack) this.zero = taken;
    const time = (taken - this.zero) / 1000;
    const soon = time - this.lastPicture < 0.8 / PICTURES;
    if (this.zero === null || time < 0 || soon || this.coding || this.unsent() > TOO_MUCH || !this.video.videoWidth) return;
    this.lastPicture = time;
    this.coding = true;
    this.canvas.width = this.video.videoWidth;
    this.canvas.height = this.video.videoHeight;
    this.canvas.getContext("2d", { alpha: false }).drawImage(this.video, 0, 0);
    this.canvas.toBlob(async blob => {
      const jpeg = blob && await blob.arrayBuffer();
      this.coding = false;
      if (!jpeg || this.stopped) return;
      const message = new Uint8Array(9 + jpeg.byteLength);
      message[0] = 2;
      new DataView(message.buffer).setFloat64(1, time, true);
      message.set(new Uint8Array(jpeg), 9);
      this.send(message.buffer);
    }, "image/jpeg", QUALITY);
  }

  // Ends camera and microphone.
  stop() {
    if (this.stopped) return;
    this.stopped = true;
    clearTimeout(this.timer);
    if (this.waiting) this.video.cancelVideoFrameCallback(this.waiting);
    this.source?.disconnect();
    if (this.node) this.node.port.onmessage = null;
    this.context?.close();
    for (const track of this.stream.getTracks()) track.stop();
  }
}
