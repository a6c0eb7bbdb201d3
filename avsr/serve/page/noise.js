// The recording read in noise: by sound, by lips and by both, side by side.

import { inNoise } from "./server.js";

const MEANS = [[15, "hardly to be heard"], [5, "a lively room"], [-2, "as loud as the voice"], [-10, "louder than the voice"],
               [-Infinity, "the voice is all but gone"]];
const WAYS = ["a", "v", "av"];

export class Noise {
  // recording(): the file that is shown. key(): the API key.
  constructor(place, { recording, key }) {
    const find = name => place.querySelector(`#${name}`);
    Object.assign(this, { place, recording, key, form: find("noise-form"), status: find("noise-status"), says: find("snr-says"),
                          results: find("noisy"), sound: find("noisy-sound"), slider: find("snr") });
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
    const level = Number(this.slider.value);
    const text = `${level > 0 ? "+" : level < 0 ? "−" : ""}${Math.abs(level)} dB, ${MEANS.find(([from]) => level >= from)[1]}`;
    this.says.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  async read() {
    this.controller?.abort();
    const controller = this.controller = new AbortController();
    const wanted = this.ways.filter(way => way !== "v" || this.byLips === null);
    const kind = new FormData(this.form).get("kind");
    this.status.textContent = "Mixing and reading…";
    try {
      const answer = await inNoise(this.recording(), { noise: kind, snr_db: this.slider.value, modalities: wanted.join(",") },
                                   this.key(), controller.signal);
      if (answer.texts.v) this.byLips = answer.texts.v;
      this.fill({ ...answer.texts, ...(this.byLips && { v: this.byLips }) });
      this.sound.src = `data:audio/wav;base64,${answer.sound}`;
      this.results.hidden = false;
      const part = answer.cut ? ` Only the first ${Math.round(answer.duration)} s were read.` : "";
      this.status.textContent = `Read with ${kind === "white" ? "white noise" : "babble"} at ${answer.snr_db.toFixed(1)} dB.${part}`;
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
