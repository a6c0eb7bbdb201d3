// Words on the page: coloured by confidence, grouped by speaker, one of them in reach of the Tab key, all of the arrow keys.

const SURE = 0.8, UNSURE = 0.5;

export class Words {
  // play(start, end): called for the word that was clicked or entered; times in seconds.
  // about: what is shown only where there are words.
  constructor(place, detail, about, play) {
    this.place = place;
    this.detail = detail;
    this.about = about;
    this.play = play;
    this.clear();
    place.addEventListener("click", event => this.choose(event.target));
    place.addEventListener("keydown", event => this.key(event));
    place.addEventListener("focusin", event => this.tell(event.target));
    place.addEventListener("mouseover", event => this.tell(event.target));
  }

  clear() {
    this.place.replaceChildren();
    this.words = [];                                         // {word, start, end, confidence, speaker, element}
    this.speakers = [];
    this.last = null;                                        // paragraph, speaker and end of the last word
    this.pending = null;
    for (const one of this.about) one.hidden = true;
  }

  // Words that will not change. newParagraph: whether they begin one.
  add(rows, newParagraph = false) {
    this.setPending([]);
    for (const row of rows) {
      if (!row.word.trim()) continue;
      this.paragraphFor(row, newParagraph);
      newParagraph = false;
      const element = wordElement(row);
      element.tabIndex = this.words.length ? -1 : 0;
      if (this.last.paragraph.querySelector(".word")) this.last.paragraph.append(" ");
      this.last.paragraph.append(element);
      this.last.end = row.end;
      this.words.push({ ...row, element });
    }
    for (const one of this.about) one.hidden = !this.words.length;
  }

  // Words that follow and may change.
  setPending(rows) {
    this.pending?.remove();
    this.pending = null;
    const text = rows.map(row => row.word).join("").trim();
    if (!text) return;
    this.pending = document.createElement("span");
    this.pending.className = "pending";
    this.pending.textContent = ` ${text}`;
    this.paragraphFor({ ...rows[0], speaker: this.last?.speaker });
    this.last.paragraph.append(this.pending);
  }

  paragraphFor(row, newParagraph = false) {
    const speaker = row.speaker ?? null;
    const pause = this.last !== null && row.start - this.last.end > 2;
    if (this.last !== null && !newParagraph && !pause && this.last.speaker === speaker) return;
    const paragraph = document.createElement("p");
    if (speaker !== null) {
      if (!this.speakers.includes(speaker)) this.speakers.push(speaker);
      paragraph.className = `turn speaker${this.speakers.indexOf(speaker) % 6}`;
      const name = document.createElement("span");
      name.className = "speaker";
      name.textContent = shownName(speaker);
      paragraph.append(name);
    }
    this.place.append(paragraph);
    this.last = { paragraph, speaker, end: row.start };
  }

  // Mark the word that is said at a time.
  at(time) {
    const now = this.words.find(one => time >= one.start && time < one.end);
    for (const one of this.words) one.element.classList.toggle("here", one === now);
  }

  get text() { return this.words.map(one => one.word.trim()).join(" "); }

  indexOf(element) { return this.words.findIndex(one => one.element === element); }

  choose(element) {
    const word = this.words[this.indexOf(element)];
    if (!word) return;
    this.reach(word.element);
    this.play(word.start, word.end);
  }

  key(event) {
    const now = this.indexOf(event.target);
    if (now < 0) return;
    const steps = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: this.words.length - 1,
                    ArrowDown: this.below(now, 1), ArrowUp: this.below(now, -1) };
    if (event.key === "Enter" || event.key === " ") this.choose(event.target);
    else if (event.key in steps) this.reach(this.words[Math.max(0, Math.min(this.words.length - 1, steps[event.key]))].element);
    else return;
    event.preventDefault();
  }

  // The index of the word nearest above or below in the next line.
  below(now, direction) {
    const from = this.words[now].element.getBoundingClientRect();
    let best = now, least = Infinity;
    for (const [i, one] of this.words.entries()) {
      const here = one.element.getBoundingClientRect(), down = (here.top - from.top) * direction;
      if (down < from.height / 2) continue;
      const far = down * 10 + Math.abs(here.left - from.left);
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  reach(element) {
    for (const one of this.words) one.element.tabIndex = one.element === element ? 0 : -1;
    element.focus();
  }

  tell(element) {
    const word = this.words[this.indexOf(element)];
    if (word) this.detail.textContent = `${word.word.trim()} · ${word.start.toFixed(2)} to ${word.end.toFixed(2)} s${
      word.confidence == null ? "" : ` · ${percent(word.confidence)} sure`}`;
  }
}

function wordElement(row) {
  const element = document.createElement("span"), text = row.word.trim(), confidence = row.confidence ?? null;
  const degree = confidence === null || confidence >= SURE ? "sure" : confidence >= UNSURE ? "unsure" : "doubtful";
  element.className = `word ${degree}`;
  element.setAttribute("role", "button");
  element.setAttribute("aria-label", confidence === null ? text : `${text}, ${percent(confidence)}`);
  element.textContent = text;
  return element;
}

export function percent(share) { return `${Math.round(100 * share)} %`; }

// SPEAKER_00 -> Speaker 1, and any other name as it is.
export function shownName(speaker) {
  const number = /^SPEAKER_(\d+)$/.exec(speaker);
  return number ? `Speaker ${Number(number[1]) + 1}` : speaker;
}
