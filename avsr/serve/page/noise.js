// The recording read in noise: by sound, by lips and by both, side by side.

import { inNoise } from "./server.js";

const MEANS = [[13, "hardly any noise"], [4, "a lively room"], [-3, "as loud as the voice"], [-12, "louder than the voice"],
               [-Infinity, "hardly a voice"]];          // by signal-to-noise ratio, dB
const WAYS = ["a", "v", "av"];

function decibels(level) { return `${level > 0 ? "+" : level < 0 ? "−" : ""}${Math.abs(level)} dB`; }

export class Noise {
  // recording(): the file that is shown. key(): the API key.
  constructor(place, { recording, key }) {
    const find = name => place.querySelector(`#${name}`);
    Object.assign(this, { place, recording, key, form: find("noise-form"), status: find("noise-status"), says: find("level-says"),
                          results: find("noisy"), sound: find("noisy-sound"), slider: find("level") });
    this.texts = Object.fromEntries(WAYS.map(way => [way, find(`by-${way}`)]));
    this.form.addEventListener("submit", event => { event.preventDefault(); this.read(); });
    this.slider.addEventListener("input", () => this.tell());
    this.tell();
  }

  // What this server can do, and a word on where its babble comes from.
  describe(about) {
    this.ways = WAYS.filter(way => about.modalities.includes(way));
    this.place.querySelector("#noise-about").textContent = about.noise;
  }

  show(visible) {
    this.controller?.abort();
    this.place.hidden = !visible;
    this.results.hidden = true;
    this.status.textContent = "";
    this.byLips = null;                                      // the lips see no noise: they are read once
  }

  tell() {
    const text = `SNR ${decibels(this.snr)}, ${MEANS.find(([from]) => this.snr >= from)[1]}`;
    this.says.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  // Signal-to-noise ratio in dB: the slider goes towards more noise.
  get snr() { return -Number(this.slider.value); }

  async read() {
    this.controller?.abort();
    const controller = this.controller = new AbortController();
    const wanted = this.ways.filter(way => way !== "v" || this.byLips === null);
    const kind = new FormData(this.form).get("kind");
    this.status.textContent = "Mixing and reading…";
    try {
      const answer = await inNoise(this.recording(), { noise: kind, snr_db: this.snr, modalities: wanted.join(",") },
                                   this.key(), controller.signal);
      if (answer.texts.v) this.byLips = answer.texts.v;
      this.fill({ ...answer.texts, ...(this.byLips && { v: this.byLips }) });
      this.sound.src = `data:audio/wav;base64,${answer.sound}`;
      this.results.hidden = false;
      const part = answer.cut ? ` Only the first ${Math.round(answer.duration)} s were read.` : "";
      this.status.textContent = `Read with ${kind === "white" ? "white noise" : "babble"} at an SNR of ${decibels(Math.round(answer.snr_db))}.${part}`;
    } catch (error) {
      if (error.name !== "AbortError") this.status.textContent = error.message;
    }
  }

  fill(texts) {
    for (const way of WAYS) {
      const found = texts[way], text = found?.text?.trim();
      this.texts[way].textContent = text || found?.problem || (found ? "nothing" : "This model cannot.");
      this.texts[way].classList.toggle("nothing", !text);
    }
  }
}
