// This server's API. Reading needs nothing; the rest needs the token that the terminal shows.

import {$} from "./dom.js";
import {events} from "./events.js";

const KEPT = "tuneserve-token";
const TOKEN = /^#token=([\w-]+)$/;

let token = sessionStorage.getItem(KEPT) ?? "";

/** Take the token out of the address, where the terminal has put it: nobody is to read it there. */
export function takeToken() {
  const found = TOKEN.exec(location.hash);
  if (!found) return;
  useToken(found[1]);
  history.replaceState(null, "", "#/");
}

export function useToken(text) {
  token = text.trim();
  sessionStorage.setItem(KEPT, token);
}

export const hasToken = () => token !== "";

/** Is it this server's? Asks for another one if not. */
export async function checkToken() {
  if (hasToken()) await send("api/token").catch(() => {});
  else askToken();
}

function askToken() {
  $("token-form").hidden = false;
}

export async function get(path) {
  return read(await reached(path, {cache: "no-store"}));
}

export async function send(path, body = {}) {
  const found = await read(await post(path, body));
  $("token-form").hidden = true;
  return found;
}

/** The events of an answer that is streamed. */
export async function* stream(path, body, signal) {
  const answer = await post(path, body, signal);
  if (!answer.ok) await read(answer);
  yield* events(answer);
}

function post(path, body, signal) {
  return reached(path, {
    method: "POST", body: JSON.stringify(body), signal,
    headers: {"Content-Type": "application/json", "X-Tuneserve-Token": token},
  });
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The page's server does not answer. Is `tuneserve ui` still running?");
  }
}

async function read(answer) {
  if (answer.ok) return answer.json();
  let error = {message: `HTTP status ${answer.status}`};
  try { ({error} = await answer.json()); } catch { /* no JSON: a proxy's page */ }
  if (error.code === "token_needed") askToken();
  throw new Error(error.message);
}
