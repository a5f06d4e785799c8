// The page: holds the button, the microphone, the conversation and the speaker together, and shows where they
// are. `data-*` on <body> says what was played, for whoever looks closer.

import { fromBase64 } from "./base64.js";
import { Conversation } from "./conversation.js";
import { HoldButton } from "./hold-button.js";
import { Microphone, MicrophoneRefused } from "./microphone.js";
import { Speaker } from "./speaker.js";
import { Transcript } from "./transcript.js";

const RATE = 16000;
/** What is shorter than this was a tap, not speech. */
const SHORTEST_SAMPLES = RATE / 4;
const REPORT_EACH_MS = 500;
const KEY = "parley-key";

const STATES = {
  connecting: "Connecting …",
  listening: "Ready to listen",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
};

/** Where a connection stays until the user does something. */
const SETTLED = new Set(["locked", "replaced", "ended"]);

const $ = (id) => document.getElementById(id);

const door = new URL("ws", location.href);
const conversation = new Conversation(door.href.replace(/^http/, "ws"), door.href);
const microphone = new Microphone();
const speaker = new Speaker();
const transcript = new Transcript($("transcript"), $("exchange"));
const button = new HoldButton($("talk"));

let link = "connecting";
/**
 * What is being said while the button is held: {stop, early, samples, talk}. `stop` is `null` until the
 * microphone records, `talk` while it may still be a tap; until then the slices wait in `early`.
 */
let utterance = null;
/** The newest turn: {turn, exchange, frames, isOver, isSilenced}. */
let newest = null;
/** The same for each turn, by its object in the conversation. */
const talks = new WeakMap();
const notices = { link: "", microphone: "", turn: "" };
let misplaced = 0;

// ---- speaking to the server

button.onpress = async () => {
  silence();
  notify("turn", "");
  const mine = (utterance = { stop: null, early: [], samples: 0, talk: null });
  try {
    await microphone.open();
  } catch (error) {
    if (!(error instanceof MicrophoneRefused)) throw error;
    if (utterance === mine) utterance = null;
    button.release();
    notify("microphone", error.message);
    return;
  }
  if (utterance === mine) {
    notify("microphone", "");
    mine.stop = microphone.record((samples, level) => take(mine, samples, level));
  } else if (utterance === null) {
    notify("microphone", "The microphone is ready: hold the button while you speak.");
  }
  show();
};

button.onrelease = async () => {
  const mine = utterance;
  utterance = null;
  if (mine?.stop) {
    speaker.open();
    await mine.stop();
    if (mine.talk) conversation.end(mine.talk.turn);
    else if (newest === null) notify("turn", "Hold the button for as long as you speak.");
  }
  show();
};

/** A slice of what is being said. */
function take(mine, samples, level) {
  mine.early.push(samples);
  mine.samples += samples.length;
  $("talk").style.setProperty("--level", loudness(level).toFixed(3));
  if (mine.samples < SHORTEST_SAMPLES) return;
  mine.talk ??= begin(conversation.begin(), null);
  for (const slice of mine.early.splice(0)) conversation.audio(mine.talk.turn, slice);
  mine.talk.exchange.speaks((mine.samples * 1000) / RATE);
  if (utterance === mine && mine.samples >= longestSamples()) {
    button.release();
    notify("turn", "That was as long as a turn may be.");
  }
}

microphone.onlost = () => {
  button.release();
  notify("microphone", "The microphone was taken away. Connect it again, or type instead.");
};

$("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "" || utterance !== null || !mayTalk()) return;
  speaker.open();
  silence();
  notify("turn", "");
  begin(conversation.text(text), text);
  $("text").value = "";
  show();
});

/** A turn of the user's begins. */
function begin(turn, said) {
  newest = { turn, exchange: transcript.add(said), frames: 0, isOver: false, isSilenced: false };
  talks.set(turn, newest);
  return newest;
}

/** Stop the answer, if there is one. */
function silence() {
  const talk = newest;
  if (talk === null || talk.isSilenced || (talk.isOver && !speaker.playing)) return;
  talk.isSilenced = true;
  const playedMs = speaker.playedMs(talk.turn);
  speaker.stop();
  conversation.interrupt(talk.turn, playedMs);
  if (talk.isOver) talk.exchange.interrupted(null);
}

/** A level as it is felt: from 0 at -44 dB to 1 at full scale. */
function loudness(level) {
  return Math.max(0, 1 + Math.log10(level + 1e-6) / 2.2);
}

/** Just short of where the server would end an utterance itself. */
function longestSamples() {
  return (conversation.serverConfig.limits.max_utterance_s - 0.25) * RATE;
}

// ---- hearing from the server

conversation.onmessage = (message, turn) => {
  const talk = turn && talks.get(turn);
  if (talk) tell(message, talk);
  else if (message.type === "error" && message.code !== "wrong_state") notify("turn", message.message);
  show();
};

conversation.onrefused = (turn, { message }) => {
  const talk = talks.get(turn);
  talk.isOver = true;
  talk.exchange.failed("not taken");
  if (utterance?.talk === talk) button.release();
  notify("turn", `The server takes no turn at the moment: ${message}. Try again soon.`);
};

conversation.onforgotten = () => {
  speaker.stop();
  if (utterance?.talk) button.release();
  if (newest && !newest.isOver) newest.exchange.failed("lost with its conversation");
  newest = null;
  notify("turn", "The server no longer knew the conversation; a new one has begun.");
};

conversation.onlink = (state, why = "") => {
  link = state;
  const server = conversation.serverConfig;
  if (state === "open") {
    const { llm, tts } = server.engines;
    $("engines").textContent = llm && tts ? `${llm} answers, ${tts} speaks` : "no engine is running yet";
    $("text").maxLength = server.limits.max_text_characters;
  }
  if (state !== "connecting") {
    $("key-form").hidden = state !== "locked";
    $("again").hidden = state !== "replaced" && state !== "ended";
    notify("link", linkNotice(state, why));
  }
  show();
};

function linkNotice(state, why) {
  switch (state) {
    case "lost":
      if (why) return `The server lets nobody in at the moment: ${why}. Trying again …`;
      if (conversation.serverConfig === null) return "The server does not answer. Trying again …";
      return "The connection is lost. Trying again …";
    case "locked":
      return why || "This server asks for an API key.";
    case "replaced":
      return "This conversation goes on in another window.";
    case "ended":
      return "The server has ended this conversation.";
    default:
      return "";
  }
}

function tell(message, talk) {
  if (talk.isOver) return;
  switch (message.type) {
    case "token_chunk":
      talk.exchange.token(message.text);
      break;
    case "semantic_chunk":
      talk.exchange.chunk(message.chunk_sequence, message.text);
      break;
    case "sequential_audio":
      hear(message, talk);
      break;
    case "chunked_streaming_complete":
      talk.isOver = true;
      talk.exchange.complete(message);
      if (!speaker.playing) heardOut();
      break;
    case "audio_interrupted":
      talk.isOver = talk.isSilenced = true;
      speaker.stop();
      talk.exchange.interrupted(message.heard_text);
      break;
    case "error":
      talk.isOver = true;
      talk.exchange.failed(message.message);
      break;
  }
}

function hear(message, talk) {
  if (message.frame_index !== talk.frames) misplaced += 1;
  talk.frames += 1;
  talk.exchange.frame(message.chunk_index, message.duration_ms);
  if (talk.isSilenced) return;
  const wasPlaying = speaker.playing;
  speaker.play(talk.turn, fromBase64(message.audio_data), message.frame_index > 0);
  if (!wasPlaying) follow();
}

/** Set the words apart that were spoken, as they are. */
function follow() {
  if (!speaker.playing || newest === null) return;
  newest.exchange.heard(speaker.playedMs(newest.turn));
  requestAnimationFrame(follow);
}

function heardOut() {
  if (newest?.isOver && !newest.isSilenced) newest.exchange.heardOut();
}

speaker.onidle = () => {
  heardOut();
  show();
};

setInterval(() => {
  if (speaker.playing && newest?.turn.number) conversation.report(newest.turn, speaker.playedMs(newest.turn));
}, REPORT_EACH_MS);

// ---- showing where things are

function state() {
  if (utterance?.stop) return "hearing";
  if (link !== "open") return "connecting";
  if (speaker.playing) return "speaking";
  if (newest === null || newest.isOver || newest.isSilenced) return "listening";
  return newest.frames > 0 ? "speaking" : "thinking";
}

function mayTalk() {
  return conversation.serverConfig !== null && !SETTLED.has(link);
}

function show() {
  const now = state();
  const { body } = document;
  const label = SETTLED.has(link) ? "Not connected" : STATES[now];
  if (body.dataset.state !== now) body.dataset.state = now;
  if ($("state").textContent !== label) $("state").textContent = label;
  $("talk").setAttribute("aria-disabled", String(!mayTalk()));
  if (utterance === null) $("talk").style.setProperty("--level", "0");
  const { frames, samples, gaps } = speaker.counts;
  Object.assign(body.dataset, { frames, samples, gaps, misplaced, resumes: conversation.resumes });
}

function notify(about, text) {
  notices[about] = text;
  const said = Object.values(notices).filter(Boolean).join(" ");
  if ($("notice").textContent !== said) $("notice").textContent = said;
}

// ---- coming and going

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  keep(key);
  conversation.connect(key);
});

$("again").addEventListener("click", () => {
  newest = null;
  conversation.close();
  conversation.connect();
});

window.addEventListener("online", () => link === "lost" && conversation.connect());
window.addEventListener("pagehide", () => {
  microphone.close();
  conversation.close();
});
window.addEventListener("pageshow", ({ persisted }) => persisted && conversation.connect());

/** The key lives as long as this tab. */
function keep(key) {
  try {
    sessionStorage.setItem(KEY, key);
  } catch (error) {
    console.debug("the key is not kept:", error.message);
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

conversation.connect(kept());
