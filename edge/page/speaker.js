// Plays frames one after the other without a gap, stops at once, and knows how much of a turn was heard.
//
// Each frame is scheduled on the clock of the audio hardware, on the very sample after the one before it.

const RATE = 24000;
/** By how much the first frame waits for those after it, at the start and after a gap. */
const HEAD_START_S = 0.06;
const FADE_S = 0.01;

export class Speaker {
  /** Is called when everything was played. */
  onidle = () => {};
  /** Frames and samples scheduled, and how often there was nothing to play in the middle of an answer. */
  counts = { frames: 0, samples: 0, gaps: 0 };
  #context = null;
  #gain = null;
  #sources = new Set();
  /** What was scheduled, as stretches without a gap: {turn, start, end} in samples of the context's clock. */
  #runs = [];

  /** Make ready to sound. Browsers allow that only after the user has done something on the page. */
  open() {
    this.#context ??= new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    if (this.#context.state !== "running") this.#context.resume();
  }

  /** Whether anything is playing, or about to. */
  get playing() {
    return this.#sources.size > 0;
  }

  /** Play a frame (Int16Array, 24 kHz) after all before it. `goesOn`: it is not the first of its turn. */
  play(turn, samples, goesOn) {
    this.open();
    const buffer = this.#context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const start = this.#place(turn, samples.length, goesOn);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect((this.#gain ??= this.#newGain()));
    source.onended = () => this.#ended(source);
    source.start(start / RATE);
    this.#sources.add(source);
    this.counts.frames += 1;
    this.counts.samples += samples.length;
  }

  /** Fall silent at once, and forget what was not played. */
  stop() {
    if (!this.playing) return;
    const now = this.#context.currentTime;
    this.#gain.gain.setTargetAtTime(0, now, FADE_S / 3);
    for (const source of this.#sources) {
      source.onended = null;
      source.stop(now + FADE_S);
    }
    this.#sources.clear();
    this.#gain = null;
    const here = this.#heard();
    for (const run of this.#runs) run.end = Math.max(run.start, Math.min(run.end, here));
  }

  /** How much of a turn has really been heard, in milliseconds. */
  playedMs(turn) {
    const here = this.#heard();
    const played = this.#runs
      .filter((run) => run.turn === turn)
      .reduce((sum, run) => sum + Math.max(0, Math.min(here, run.end) - run.start), 0);
    return (played * 1000) / RATE;
  }

  /** The sample on which the next frame starts. */
  #place(turn, length, goesOn) {
    const earliest = Math.ceil(this.#context.currentTime * RATE);
    const last = this.#runs.at(-1);
    if (last && last.end >= earliest && this.playing) {
      const start = last.end;
      if (last.turn === turn) last.end += length;
      else this.#runs.push({ turn, start, end: start + length });
      return start;
    }
    if (goesOn) this.counts.gaps += 1;
    const start = earliest + HEAD_START_S * RATE;
    this.#runs = [...this.#runs.filter((run) => run.turn === turn), { turn, start, end: start + length }];
    return start;
  }

  /** The sample that the listener hears now. */
  #heard() {
    if (!this.#context) return 0;
    const { currentTime, outputLatency, baseLatency } = this.#context;
    return (currentTime - (outputLatency || baseLatency || 0)) * RATE;
  }

  #newGain() {
    const gain = this.#context.createGain();
    gain.connect(this.#context.destination);
    return gain;
  }

  #ended(source) {
    this.#sources.delete(source);
    if (!this.playing) this.onidle();
  }
}
