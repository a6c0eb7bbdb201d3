// The sound of the microphone in pieces of 20 ms, as 16-bit samples.

class Pieces extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate * 0.02));
    this.filled = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece, [this.piece.buffer]);
        this.piece = new Int16Array(Math.round(sampleRate * 0.02));
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("pieces", Pieces);
