// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The session: one for each browser and user. Its tokens are in this file, in `sessionStorage` and
 * nowhere else; they end with "Sign out", after 30 idle minutes, and with the tab.
 */
import { takeAnswer } from "./answers.js";
import { MatrixError, ask } from "./net.js";
import { redeemCode, refreshTokens, revokeToken } from "./oauth.js";

export { MatrixError };

const KEY = "synapse_msc3881.session";
const DEVICE_KEY = "synapse_msc3881.device";
const DEVICE_PREFIX = "NOTIFSETTINGS";
const CHANNEL = "synapse_msc3881";
const LOCK = "synapse_msc3881.refresh";

/** The name of the session, which the server shows to whoever looks at a list of sessions. */
export const SESSION_NAME = "Notification settings";

const IDLE_MS = 30 * 60_000;
const LOOK_MS = 10_000;
/** What is noted of a person at work: not each key. */
const ACTIVITY_MS = 5_000;
/** A token is renewed so long before its end. */
const EARLY_MS = 15_000;
/** How long other tabs of this browser may take to say that they are signed in. */
const TABS_MS = 150;
/** How long the server may take to sign out. Here it is done then all the same. */
const LEAVE_MS = 2_000;

/**
 * @typedef {object} Stored
 * @property {string} homeserver
 * @property {string} userId
 * @property {string} deviceId
 * @property {string} accessToken
 * @property {string} [refreshToken]
 * @property {number} [expiresAt]
 * @property {{issuer: string, token: string, revoke: string, clientId: string}} [oauth]
 * @property {number} activeAt - when the person did something last
 */

/** Why the page cannot work where it is; "" where it can. */
const hindrance = window.top !== window.self ? "framed" : canStore() ? "" : "blocked";
// At once, before anything can fail or wait.
let answer = hindrance ? null : takeAnswer();
/** @type {{reason: string, error?: MatrixError} | null} */
let ended = null;

function canStore() {
  try {
    return Boolean(sessionStorage && localStorage);
  } catch {
    return false;
  }
}

/** The homeserver's URL, with a slash at its end. */
export function homeserverUrl() {
  const url = new URL(written("homeserver") || "../../../", location.href);
  url.search = url.hash = "";
  return url.href;
}

/**
 * Whether users of the homeserver sign in with an OAuth server: "yes", "no", or "expected" where it
 * did not answer the homeserver yet, so that the page's policy does not name it.
 */
export function oauthState() {
  return written("oauth") ?? "no";
}

/**
 * What whoever serves the page has written into its head.
 *
 * @param {string} name
 */
function written(name) {
  return document.querySelector(`meta[name="${name}"]`)?.getAttribute("content");
}

/**
 * Why there is no session, for a sentence: "signed-out", "signed-out-here" (the server has not said
 * so), "idle", "expired", "elsewhere", "refused", "failed" (with an error), or where there can be none "framed" or "blocked"; null on a first visit.
 */
export function lastEnd() {
  return ended;
}

/**
 * This browser's device id, the same for each time that somebody signs in here.
 *
 * @returns {string}
 */
export function ownDeviceId() {
  const known = localStorage.getItem(DEVICE_KEY);
  if (known !== null && isOwnSession(known)) return known;
  const letters = crypto.getRandomValues(new Uint8Array(12));
  const made = DEVICE_PREFIX + Array.from(letters, (n) => String.fromCharCode(65 + (n % 26))).join("");
  localStorage.setItem(DEVICE_KEY, made);
  return made;
}

/**
 * Whether a device is a session of this page, in any browser.
 *
 * @param {string} deviceId
 */
export function isOwnSession(deviceId) {
  return new RegExp(`^${DEVICE_PREFIX}[A-Z]{12}$`).test(deviceId);
}

/**
 * The session of this tab: the one that it had, the one that another tab has, or the one that an
 * answer to signing in makes.
 *
 * @returns {Promise<Session | null>} null where somebody has to sign in
 */
export async function start() {
  if (hindrance) {
    ended = { reason: hindrance };
    return null;
  }
  const homeserver = homeserverUrl();
  const came = answer;
  answer = null;
  if (came?.asked?.homeserver === homeserver) {
    try {
      return await finishSigningIn(came.asked, came.values);
    } catch (error) {
      ended = { reason: "failed", error: asMatrixError(error) };
      return null;
    }
  }
  const stored = load(homeserver);
  const inUse = stored !== null && isInUse(stored) ? stored : await askOtherTabs(homeserver, isInUse);
  if (inUse !== null) return begin({ ...inUse, activeAt: Date.now() });
  if (stored !== null) await new Session(stored).signOut("idle");
  else if (came !== null) ended = { reason: "refused" };
  return null;
}

/** @param {Stored} stored */
function isInUse(stored) {
  return Date.now() - stored.activeAt < IDLE_MS;
}

/**
 * Signs in with `POST /login`.
 *
 * @param {string} homeserver
 * @param {Record<string, unknown>} credentials
 * @returns {Promise<Session>}
 * @throws {MatrixError}
 */
export async function logIn(homeserver, credentials) {
  const login = await ask("POST", `${homeserver}_matrix/client/v3/login`, {
    json: {
      ...credentials,
      device_id: ownDeviceId(),
      initial_device_display_name: SESSION_NAME,
      // So that a token that a closed tab leaves behind ends by itself.
      refresh_token: true,
    },
  });
  return begin({
    homeserver,
    userId: String(login.user_id),
    deviceId: String(login.device_id),
    activeAt: Date.now(),
    ...tokens(login, login.expires_in_ms),
  });
}

/**
 * @param {import("./answers.js").Asked} asked
 * @param {Record<string, string>} values
 */
async function finishSigningIn(asked, values) {
  const { homeserver } = asked;
  if (asked.kind === "sso") {
    if (!values.loginToken) throw new MatrixError(400, "", "no token came back");
    return logIn(homeserver, { type: "m.login.token", token: values.loginToken });
  }
  const granted = await redeemCode(asked, values);
  const oauth = {
    issuer: asked.server.issuer,
    token: asked.server.token,
    revoke: asked.server.revoke,
    clientId: asked.clientId,
  };
  const kept = tokens(granted, Number(granted.expires_in) * 1000);
  const token = kept.accessToken;
  const who = await ask("GET", `${homeserver}_matrix/client/v3/account/whoami`, { token });
  const device = `${homeserver}_matrix/client/v3/devices/${encodeURIComponent(who.device_id)}`;
  // The server names it after the browser; not worth failing for.
  await ask("PUT", device, { token, json: { display_name: SESSION_NAME } }).catch(() => null);
  return begin({
    homeserver,
    userId: String(who.user_id),
    deviceId: String(who.device_id),
    activeAt: Date.now(),
    oauth,
    ...kept,
  });
}

/**
 * @param {any} granted
 * @param {unknown} lifetimeMs
 */
function tokens(granted, lifetimeMs) {
  const lives = typeof lifetimeMs === "number" && lifetimeMs > 0;
  return {
    accessToken: String(granted.access_token),
    refreshToken: granted.refresh_token === undefined ? undefined : String(granted.refresh_token),
    expiresAt: lives ? Date.now() + lifetimeMs : undefined,
  };
}

/** @param {Stored} stored */
function begin(stored) {
  ended = null;
  const session = new Session(stored);
  session.keep();
  return session;
}

/**
 * @param {string} homeserver
 * @returns {Stored | null}
 */
function load(homeserver) {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    return isSession(stored, homeserver) ? stored : null;
  } catch {
    return null;
  }
}

/**
 * @param {any} stored
 * @param {string} homeserver
 * @returns {stored is Stored}
 */
function isSession(stored, homeserver) {
  return (
    stored !== null &&
    typeof stored === "object" &&
    stored.homeserver === homeserver &&
    ["userId", "deviceId", "accessToken"].every((name) => typeof stored[name] === "string") &&
    typeof stored.activeAt === "number"
  );
}

/** @param {unknown} error */
function asMatrixError(error) {
  return error instanceof MatrixError ? error : new MatrixError(0, "BUG", String(error));
}

// --- The other tabs of this browser -------------------------------------------------------------
//
// They have the same device at the server, so they have to have the same tokens: signing in anew
// would sign them out. What they tell each other never leaves the browser or the origin.

/**
 * @param {string} homeserver
 * @param {(stored: Stored) => boolean} isOfUse
 * @returns {Promise<Stored | null>} what another tab has
 */
function askOtherTabs(homeserver, isOfUse) {
  const channel = new BroadcastChannel(CHANNEL);
  return new Promise((resolve) => {
    /** @param {Stored | null} found */
    const end = (found) => {
      clearTimeout(timer);
      channel.close();
      resolve(found);
    };
    const timer = setTimeout(() => end(null), TABS_MS);
    channel.onmessage = ({ data }) => {
      const stored = data?.session;
      if (isSession(stored, homeserver) && isOfUse(stored)) end(stored);
    };
    channel.postMessage({ wanted: homeserver });
  });
}

// --- The session --------------------------------------------------------------------------------

/** Somebody who is signed in, on one device. */
export class Session {
  /** @type {Stored} */
  #stored;
  /** @type {Set<(reason: string) => void>} */
  #listeners = new Set();
  /** @type {Promise<boolean> | null} */
  #refreshing = null;
  /** @type {Promise<void> | null} */
  #leaving = null;
  /** Whether another tab is signing out. */
  #isLeft = false;
  /** @type {Set<AbortController>} */
  #underWay = new Set();
  #over = false;
  #channel = new BroadcastChannel(CHANNEL);
  #stopped = new AbortController();

  /** @param {Stored} stored */
  constructor(stored) {
    this.#stored = stored;
    this.userId = stored.userId;
    this.deviceId = stored.deviceId;
    this.homeserver = stored.homeserver;
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    const { signal } = this.#stopped;
    for (const name of ["pointerdown", "keydown", "wheel", "touchstart"]) {
      addEventListener(name, () => this.#active(), { signal, passive: true });
    }
    document.addEventListener("visibilitychange", () => this.#look(), { signal });
    const timer = setInterval(() => this.#look(), LOOK_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  }

  /** Stores it for this tab, and tells the others. */
  keep() {
    if (this.#over) return; // A slow server may renew a token long after that.
    sessionStorage.setItem(KEY, JSON.stringify(this.#stored));
    this.#channel.postMessage({ session: this.#stored });
  }

  /**
   * Asks the homeserver as this user.
   *
   * @param {string} method
   * @param {string} path - from `/_matrix` on, percent-encoded
   * @param {unknown} [body] - sent as JSON
   * @param {{signal?: AbortSignal, timeoutMs?: number}} [options]
   * @returns {Promise<any>}
   * @throws {MatrixError}
   */
  request(method, path, body, options = {}) {
    return this.#ask(method, path, { ...options, json: body });
  }

  /**
   * Gets what is no JSON, such as a picture.
   *
   * @param {string} path - as above
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Blob>}
   * @throws {MatrixError}
   */
  media(path, options = {}) {
    return this.#ask("GET", path, { ...options, blob: true });
  }

  /**
   * Ends the session, here and at the server.
   *
   * @param {string} [reason]
   */
  signOut(reason = "signed-out") {
    if (this.#over) return Promise.resolve();
    if (this.#leaving) return this.#leaving;
    const { userId, homeserver } = this;
    this.#stopAsking();
    this.#channel.postMessage({ leaving: userId, homeserver });
    // Here it ends all the same, and soon: nobody must be able to go on because the network is down.
    const leaving = new AbortController();
    const late = new Promise((resolve) => setTimeout(resolve, LEAVE_MS, false));
    const atServer = this.#endAtServer(leaving.signal).then(
      () => true,
      // A token that is over is signed out.
      (error) => error instanceof MatrixError && error.status === 401,
    );
    this.#leaving = Promise.race([atServer, late]).then((done) => {
      // Nothing more is asked: somebody may have signed in again by then.
      leaving.abort();
      this.#end(done || reason !== "signed-out" ? reason : "signed-out-here");
    });
    return this.#leaving;
  }

  /**
   * @param {(reason: string) => void} listener - called once, when the session is over
   */
  onEnd(listener) {
    this.#listeners.add(listener);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{signal?: AbortSignal, [more: string]: unknown}} options
   */
  async #ask(method, path, options) {
    if (this.#isEnding()) throw overError();
    const request = new AbortController();
    const abort = () => request.abort();
    options.signal?.addEventListener("abort", abort);
    if (options.signal?.aborted) abort();
    this.#underWay.add(request);
    try {
      return await this.#askAlways(method, path, { ...options, signal: request.signal });
    } catch (error) {
      throw this.#isEnding() ? overError() : error;
    } finally {
      this.#underWay.delete(request);
      options.signal?.removeEventListener("abort", abort);
    }
  }

  #isEnding() {
    return this.#over || this.#isLeft || this.#leaving !== null;
  }

  /** What is under way would be refused, and would look for another token. */
  #stopAsking() {
    for (const request of this.#underWay) request.abort();
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} options
   */
  async #askAlways(method, path, options) {
    const url = this.homeserver + path.replace(/^\//, "");
    const { refreshToken, expiresAt } = this.#stored;
    if (refreshToken && expiresAt !== undefined && expiresAt - Date.now() < EARLY_MS) {
      await this.#refresh(this.#stored.accessToken);
    }
    const token = this.#stored.accessToken;
    try {
      return await ask(method, url, { ...options, token });
    } catch (error) {
      if (!(error instanceof MatrixError) || !isTokenError(error)) throw error;
      if (await this.#refresh(token)) {
        return ask(method, url, { ...options, token: this.#stored.accessToken });
      }
      this.#end(error.softLogout || this.#stored.oauth ? "expired" : "elsewhere");
      throw error;
    }
  }

  /** @param {AbortSignal} signal */
  async #endAtServer(signal) {
    const { oauth, refreshToken, accessToken } = this.#stored;
    if (!oauth?.revoke) {
      await this.#askAlways("POST", "/_matrix/client/v3/logout", { json: {}, signal });
    } else if (refreshToken) {
      await revokeToken(oauth, refreshToken, "refresh_token");
    } else {
      await revokeToken(oauth, accessToken, "access_token");
    }
  }

  /**
   * Gets another token in the place of one, once, however many requests want that.
   *
   * @param {string} stale
   * @returns {Promise<boolean>} whether there is another
   * @throws {MatrixError} the server cannot be reached, or wants a rest
   */
  #refresh(stale) {
    this.#refreshing ??= this.#locked(() => this.#refreshNow(stale)).finally(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  /** @param {() => Promise<boolean>} renew */
  async #locked(renew) {
    // One tab at a time, where the browser can do that (over TLS).
    return navigator.locks ? await navigator.locks.request(LOCK, renew) : await renew();
  }

  /** @param {string} stale */
  async #refreshNow(stale) {
    if (this.#stored.accessToken !== stale) return true;
    const { homeserver, refreshToken, oauth } = this.#stored;
    try {
      if (!refreshToken) throw new MatrixError(401, "", "there is nothing to renew it with");
      const granted = oauth
        ? await refreshTokens(oauth, refreshToken)
        : await ask("POST", `${homeserver}_matrix/client/v3/refresh`, {
            json: { refresh_token: refreshToken },
          });
      const lives = oauth ? Number(granted.expires_in) * 1000 : granted.expires_in_ms;
      const renewed = tokens(granted, lives);
      this.#stored = {
        ...this.#stored,
        ...renewed,
        refreshToken: renewed.refreshToken ?? refreshToken,
      };
      this.keep();
      return true;
    } catch (error) {
      if (!(error instanceof MatrixError) || ![400, 401, 403].includes(error.status)) throw error;
      // Another tab may have been faster, and used up what was to be used once.
      const { userId } = this;
      const isNewer = (/** @type {Stored} */ other) =>
        other.userId === userId && other.accessToken !== stale;
      const newer = await askOtherTabs(homeserver, isNewer);
      if (newer === null) return false;
      this.#adopt(newer);
      return true;
    }
  }

  /** @param {any} data */
  #hear(data) {
    const mine = this.#stored;
    if (data?.wanted === this.homeserver) {
      this.#channel.postMessage({ session: mine });
    } else if (isSession(data?.session, this.homeserver) && data.session.userId === this.userId) {
      this.#adopt(data.session);
    } else if (data?.active === this.userId && typeof data.at === "number") {
      mine.activeAt = Math.max(mine.activeAt, Math.min(data.at, Date.now()));
    } else if (data?.leaving === this.userId && data.homeserver === this.homeserver) {
      this.#isLeft = true;
      this.#stopAsking();
      // Unless that tab has been closed meanwhile, this one is told before.
      setTimeout(() => {
        this.#isLeft = false;
      }, 2 * LEAVE_MS);
    } else if (data?.over === this.userId && data.homeserver === this.homeserver) {
      this.#end(String(data.reason), false);
    }
  }

  /** @param {Stored} other - of this user, from another tab */
  #adopt(other) {
    if (this.#over) return;
    this.#stored = { ...other, activeAt: Math.max(other.activeAt, this.#stored.activeAt) };
    sessionStorage.setItem(KEY, JSON.stringify(this.#stored));
  }

  #active() {
    const now = Date.now();
    // Whoever comes back after so long has to sign in, and does not wake it up by that.
    if (!isInUse(this.#stored)) {
      this.#look();
      return;
    }
    if (now - this.#stored.activeAt < ACTIVITY_MS) return;
    this.#stored.activeAt = now;
    sessionStorage.setItem(KEY, JSON.stringify(this.#stored));
    this.#channel.postMessage({ active: this.userId, at: now });
  }

  async #look() {
    if (isInUse(this.#stored)) return;
    // This tab may have slept, while the person was at work in another.
    const { userId } = this;
    const isBusy = (/** @type {Stored} */ other) => other.userId === userId && isInUse(other);
    const busy = await askOtherTabs(this.homeserver, isBusy);
    if (busy !== null) this.#adopt(busy);
    else await this.signOut("idle");
  }

  /**
   * @param {string} reason
   * @param {boolean} [tell]
   */
  #end(reason, tell = true) {
    if (this.#over) return;
    this.#over = true;
    ended = { reason };
    sessionStorage.removeItem(KEY);
    if (tell) {
      const { userId, homeserver } = this;
      this.#channel.postMessage({ over: userId, homeserver, reason });
    }
    this.#channel.close();
    this.#stopped.abort();
    for (const listener of this.#listeners) listener(reason);
  }
}

function overError() {
  return new MatrixError(401, "M_UNKNOWN_TOKEN", "the session is over");
}

/** @param {MatrixError} error */
function isTokenError(error) {
  return error.status === 401 && ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"].includes(error.errcode);
}
