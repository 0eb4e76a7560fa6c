// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * What a server that signs in sends back in the address: taken out of it at once, and refused
 * where this page did not ask for it. Or else somebody else's link could sign a person in as
 * another, who then reads what the person sets up.
 */

const KEY = "synapse_msc3881.pending";
/** Somebody may have to register first. */
const PATIENCE_MS = 60 * 60_000;
const PARTS = ["loginToken", "code", "state", "error", "error_description", "iss"];

/**
 * What was asked for. `kind` is "sso" or "oauth", the rest is for whoever asked.
 *
 * @typedef {{kind: string, state: string, at: number, homeserver: string, route: string,
 *   [more: string]: any}} Asked
 */

/**
 * Remembers what is being asked for, until the answer comes to this tab.
 *
 * @param {string} kind
 * @param {string} homeserver
 * @param {Record<string, unknown>} [more]
 * @returns {string} the state to send along: nobody else knows it
 */
export function expectAnswer(kind, homeserver, more = {}) {
  const state = randomText();
  const route = location.hash;
  sessionStorage.setItem(
    KEY,
    JSON.stringify({ ...more, kind, state, at: Date.now(), homeserver, route }),
  );
  return state;
}

/**
 * What was asked for with that state; it is then forgotten, so that an answer counts once.
 *
 * @param {string | undefined} state
 * @returns {Asked | null}
 */
function takeAsked(state) {
  const asked = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  if (asked === null || asked.state !== state) return null;
  sessionStorage.removeItem(KEY);
  return Date.now() - asked.at < PATIENCE_MS ? asked : null;
}

/**
 * Takes an answer out of the address.
 *
 * @returns {{values: Record<string, string>, asked: Asked | null} | null} null where there is
 *   none; `asked` is null for one that this page did not ask for
 */
export function takeAnswer() {
  const fragment = location.hash.startsWith("#/") ? "" : location.hash.slice(1);
  /** @type {Record<string, string>} */
  const values = {};
  for (const source of [location.search, fragment]) {
    for (const [name, value] of new URLSearchParams(source)) {
      if (PARTS.includes(name)) values[name] = value;
    }
  }
  if (Object.keys(values).length === 0) return null;
  const asked = takeAsked(values.state);
  const route = asked?.route ?? (fragment ? "" : location.hash);
  history.replaceState(null, "", location.pathname + route);
  return { values, asked };
}

/** 43 characters that nobody can guess, good for URLs and for a code verifier. */
export function randomText() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

/** @param {Uint8Array} bytes */
export function base64url(bytes) {
  const text = btoa(String.fromCharCode(...bytes));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
