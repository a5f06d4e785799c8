// The page: holds the button, the microphone, the conversation and the speaker together, and shows where they
// are. `data-*` on <body> says what was played, for whoever looks closer.

import { fromBase64 } from "./base64.js";
import { Conversation } from "./conversation.js";
import { HandsFree } from "./hands-free.js";
import { HoldButton } from "./hold-button.js";
import { HoldToTalk } from "./hold-to-talk.js";
import { Microphone, MicrophoneRefused, loudness } from "./microphone.js";
import { Notices, linkNotice } from "./notices.js";
import { Speaker } from "./speaker.js";
import { Transcript } from "./transcript.js";

const REPORT_EACH_MS = 500;
const KEY = "parley-key";

const STATES = {
  connecting: "Connecting …",
  listening: "Ready to listen",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
  muted: "Muted",
};

/** Where a connection stays until the user does something. */
const SETTLED = new Set(["locked", "replaced", "ended"]);

/** What comes of a turn while it is still being said. */
const MEANWHILE = new Set(["speech_started", "audio_ack"]);

const $ = (id) => document.getElementById(id);

const door = new URL("ws", location.href);
const conversation = new Conversation(door.href.replace(/^http/, "ws"), door.href);
const microphone = new Microphone();
const hold = new HoldToTalk(microphone, conversation);
const handsFree = new HandsFree(microphone, conversation);
const speaker = new Speaker();
const transcript = new Transcript($("transcript"), $("exchange"));
const button = new HoldButton($("talk"));
const notices = new Notices($("notice"));

let link = "connecting";
/** The newest turn: {turn, exchange, frames, startedMs, isOver, isSilenced}. */
let newest = null;
/** The one that the server is hearing, hands-free. */
let hearing = null;
/** The same for each turn, by its object in the conversation. */
const talks = new WeakMap();
let misplaced = 0;

// ---- speaking to the server

button.onpress = async () => {
  notices.say("turn", "");
  if (!handsFree.on) silence();
  try {
    const isReady = handsFree.on ? await handsFree.listen() : await hold.press();
    notices.say("microphone", isReady ? "" : "The microphone is ready: hold the button while you speak.");
  } catch (error) {
    if (!(error instanceof MicrophoneRefused)) throw error;
    button.release();
    if (handsFree.on) choose(false);
    notices.say("microphone", error.message);
  }
  show();
};

button.onrelease = async () => {
  hearing = null;
  if (handsFree.on) {
    handsFree.mute();
  } else {
    if (hold.recording) speaker.open();
    const wasSpeech = await hold.release();
    if (!wasSpeech && newest === null) notices.say("turn", "Hold the button for as long as you speak.");
  }
  show();
};

/** Hands-free, or not. */
function choose(isHandsFree) {
  button.release();
  $("hands-free").checked = button.latches = isHandsFree;
  if (isHandsFree) {
    handsFree.on = true;
    speaker.open();
    button.press();
  } else {
    handsFree.leave();
  }
  show();
}

$("hands-free").addEventListener("change", ({ target }) => choose(target.checked));

hold.onbegin = (turn) => begin(turn, null);
hold.onspeech = (turn, ms) => talks.get(turn).exchange.speaks(ms);
hold.onfull = () => {
  button.release();
  notices.say("turn", "That was as long as a turn may be.");
};

hold.onlevel = handsFree.onlevel = (level) => {
  $("talk").style.setProperty("--level", loudness(level).toFixed(3));
  if (hearing?.startedMs != null) hearing.exchange.speaks(conversation.inputMs - hearing.startedMs);
};

microphone.onlost = () => {
  button.release();
  notices.say("microphone", "The microphone was taken away. Connect it again, or type instead.");
  show();
};

$("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "" || hold.held || !mayTalk()) return;
  speaker.open();
  silence();
  notices.say("turn", "");
  begin(conversation.text(text), text);
  $("text").value = "";
  show();
});

/** A turn of the user's begins. */
function begin(turn, said) {
  const exchange = transcript.add(said);
  newest = { turn, exchange, frames: 0, startedMs: null, isOver: false, isSilenced: false };
  talks.set(turn, newest);
}

/** Play no more of the answer, if there is one; the turn that this stops. */
function hush() {
  const talk = newest;
  if (talk === null || talk.isSilenced || (talk.isOver && !speaker.playing)) return null;
  talk.isSilenced = true;
  speaker.stop();
  if (talk.isOver) talk.exchange.interrupted(null);
  return talk.turn;
}

/** Stop the answer, if there is one. */
function silence() {
  const turn = hush();
  if (turn) conversation.interrupt(turn, speaker.playedMs(turn));
}

// ---- hearing from the server

conversation.onmessage = (message, turn) => {
  const talk = turn && talks.get(turn);
  if (talk) tell(message, talk);
  else if (message.type === "error" && message.code !== "wrong_state") notices.say("turn", message.message);
  show();
};

/** Somebody speaks, hands-free. */
conversation.onfound = (turn) => {
  // What was typed and has no number yet has crossed this turn, and comes after it.
  const typed = newest && !newest.isOver && newest.turn.number === null ? newest : null;
  if (!typed) hush();
  notices.say("turn", "");
  begin(turn, null);
  newest = typed ?? newest;
};

conversation.onrefused = (turn, { message }) => {
  if (turn !== null) {
    const talk = talks.get(turn);
    talk.isOver = true;
    talk.exchange.failed("not taken");
    if (hold.turn === turn) button.release();
  }
  notices.say("turn", `The server takes no turn at the moment: ${message}. Try again soon.`);
};

conversation.onforgotten = () => {
  speaker.stop();
  if (hold.turn) button.release();
  if (newest && !newest.isOver) newest.exchange.failed("lost with its conversation");
  newest = hearing = null;
  handsFree.beginAgain();
  notices.say("turn", "The server no longer knew the conversation; a new one has begun.");
};

conversation.onlink = (state, why = "") => {
  link = state;
  const server = conversation.serverConfig;
  if (state === "open") {
    const { llm, tts } = server.engines;
    $("engines").textContent = llm && tts ? `${llm} answers, ${tts} speaks` : "no engine is running yet";
    $("text").maxLength = server.limits.max_text_characters;
  }
  if (SETTLED.has(state) && handsFree.on) choose(false);
  if (state !== "connecting") {
    $("key-form").hidden = state !== "locked";
    $("again").hidden = state !== "replaced" && state !== "ended";
    notices.say("link", linkNotice(state, why, server !== null));
  }
  show();
};

function tell(message, talk) {
  if (talk.isOver) return;
  if (hearing === talk && !MEANWHILE.has(message.type)) hearing = null;
  switch (message.type) {
    case "speech_started":
      if (!talk.turn.found) break;
      hearing = talk;
      talk.startedMs = message.audio_ms;
      break;
    case "speech_stopped":
      if (talk.startedMs !== null) talk.exchange.speaks(message.audio_ms - talk.startedMs);
      break;
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
  if (hold.recording || (hearing && link === "open")) return "hearing";
  if (link !== "open") return "connecting";
  if (speaker.playing) return "speaking";
  if (newest && !newest.isOver && !newest.isSilenced) return newest.frames > 0 ? "speaking" : "thinking";
  if (!handsFree.on || handsFree.listening) return "listening";
  return handsFree.muted ? "muted" : "connecting";
}

function mode() {
  if (!handsFree.on) return "hold";
  if (handsFree.muted) return "muted";
  return handsFree.halfDuplex ? "half-duplex" : "hands-free";
}

function mayTalk() {
  return conversation.serverConfig !== null && !SETTLED.has(link);
}

function show() {
  const now = state();
  const { body } = document;
  const label = SETTLED.has(link) ? "Not connected" : STATES[now];
  if (body.dataset.state !== now) body.dataset.state = now;
  body.dataset.mode = mode();
  if ($("state").textContent !== label) $("state").textContent = label;
  $("talk").setAttribute("aria-disabled", String(!mayTalk()));
  $("hands-free").disabled = !mayTalk();
  if (!hold.held && !handsFree.listening) $("talk").style.setProperty("--level", "0");
  const { frames, samples, gaps } = speaker.counts;
  Object.assign(body.dataset, { frames, samples, gaps, misplaced, resumes: conversation.resumes });
}

// ---- coming and going

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  keep(key);
  conversation.connect(key);
});

$("again").addEventListener("click", () => {
  newest = hearing = null;
  conversation.close();
  conversation.connect();
});

window.addEventListener("online", () => link === "lost" && conversation.connect());
window.addEventListener("pagehide", () => {
  if (handsFree.on) choose(false);
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
