// The microphone, as slices of PCM16 at 16 kHz. Knows nothing of what becomes of them.
//
// It stays open for a while after it was used, so that the next press does not wait for it; then it is let
// go, and the browser's sign that the page listens goes out.

const RATE = 16000;
const KEPT_OPEN_MS = 30_000;
const START_WITHIN_MS = 5000;
const STOP_WITHIN_MS = 1000;

const CONSTRAINTS = {
  channelCount: 1,
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
};

const REASONS = {
  NotAllowedError:
    "The browser does not let this page use the microphone. Allow it in its settings for this site, or type.",
  NotFoundError: "No microphone was found. Connect one, or type instead.",
  NotReadableError: "The microphone cannot be opened: another program may be using it. You can type.",
};
const INSECURE =
  "A browser gives the microphone only to pages that come over https or from this computer. You can type.";

/** A level as it is felt: from 0 at -44 dB to 1 at full scale. */
export function loudness(level) {
  return Math.max(0, 1 + Math.log10(level + 1e-6) / 2.2);
}

/** Raised when there is no microphone to be had; the message is for people. */
export class MicrophoneRefused extends Error {}

export class Microphone {
  /** Is called when the microphone is gone, though nobody closed it. */
  onlost = () => {};
  #stream = null;
  #context = null;
  #node = null;
  #opening = null;
  /** Those that begun and have not had their last slice, oldest first: {onslice, done}. */
  #recordings = [];
  #letGo = 0;

  /** Whether the browser keeps what it plays itself out of what this hears; the microphone must be open. */
  get echoCancelled() {
    return this.#stream.getAudioTracks()[0].getSettings().echoCancellation !== false;
  }

  /** Ask for the microphone, unless it is open. Raises `MicrophoneRefused`. */
  async open() {
    clearTimeout(this.#letGo);
    this.#opening ??= this.#open().finally(() => (this.#opening = null));
    await this.#opening;
  }

  /**
   * Record from now on; the microphone must be open. `onslice` is called with each slice (an Int16Array) and
   * its level from 0 to 1 (root mean square). The function that is returned ends the recording, and its
   * promise is kept after the last slice.
   */
  record(onslice) {
    clearTimeout(this.#letGo);
    const ended = new Promise((done) => this.#recordings.push({ onslice, done }));
    const { port } = this.#node;
    port.postMessage("start");
    return () => {
      port.postMessage("stop");
      const stuck = setTimeout(() => this.close(), STOP_WITHIN_MS);
      ended.then(() => clearTimeout(stuck));
      this.#letGo = setTimeout(() => this.close(), KEPT_OPEN_MS);
      return ended;
    };
  }

  /** Let the microphone go. */
  close() {
    clearTimeout(this.#letGo);
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#context?.close();
    this.#stream = this.#context = this.#node = null;
    for (const { done } of this.#recordings.splice(0)) done();
  }

  async #open() {
    if (this.#node) return;
    if (!navigator.mediaDevices || !window.AudioWorklet) throw new MicrophoneRefused(INSECURE);
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio: CONSTRAINTS });
      await this.#attach();
    } catch (error) {
      this.close();
      throw new MicrophoneRefused(REASONS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    for (const track of this.#stream.getTracks()) track.onended = () => this.#lose();
  }

  async #attach() {
    let source;
    this.#context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    try {
      source = this.#context.createMediaStreamSource(this.#stream);
    } catch (error) {
      // A browser that does not convert the rate of a microphone: capture.js does.
      if (error.name !== "NotSupportedError") throw error;
      await this.#context.close();
      this.#context = new AudioContext({ latencyHint: "interactive" });
      source = this.#context.createMediaStreamSource(this.#stream);
    }
    await this.#context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const mono = { channelCount: 1, channelCountMode: "explicit" };
    const node = new AudioWorkletNode(this.#context, "capture", mono);
    node.port.onmessage = ({ data }) => this.#hear(data);
    // Only what leads to the destination is run; the node itself is silent.
    source.connect(node).connect(this.#context.destination);
    await this.#started();
    this.#node = node;
  }

  /** A browser without any sound device never starts its clock. */
  async #started() {
    const tooLate = new Promise((_, reject) => {
      setTimeout(() => reject(new Error("the sound system of this browser does not start")), START_WITHIN_MS);
    });
    await Promise.race([this.#context.resume(), tooLate]);
  }

  #hear({ samples, level, done }) {
    if (done) this.#recordings.shift()?.done();
    else this.#recordings[0]?.onslice(samples, level);
  }

  #lose() {
    this.close();
    this.onlost();
  }
}
