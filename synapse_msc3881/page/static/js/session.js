// SPDX-License-Identifier: AGPL-3.0-or-later
/** Who is signed in. */

const STORED = "session";

export class MatrixError extends Error {
  /**
   * @param {number} status  0 where there is no network
   * @param {any} body
   */
  constructor(status, body) {
    super(body?.error ?? String(status));
    this.status = status;
    this.errcode = body?.errcode;
    this.retryAfterMs = body?.retry_after_ms;
  }
}

const HOMESERVER = new URL(
  document.querySelector('meta[name="homeserver"]')?.getAttribute("content") ?? "../../../",
  location.href,
).href;

/** @param {string} _deviceId */
export const isOwnSession = (_deviceId) => false;

/**
 * @param {string | null} token
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 */
async function ask(token, method, path, body) {
  /** @type {RequestInit} */
  const init = { method, cache: "no-store", headers: {} };
  if (token) init.headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) init.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(new URL(path.replace(/^\//, ""), HOMESERVER), init);
  } catch {
    throw new MatrixError(0, null);
  }
  const json = await answer.json().catch(() => null);
  if (!answer.ok) throw new MatrixError(answer.status, json);
  return json;
}

/** @param {any} stored */
function sessionOf(stored) {
  /** @type {(reason?: string) => void} */
  let onEnd = () => undefined;
  const end = (/** @type {string} */ reason) => {
    sessionStorage.removeItem(STORED);
    onEnd(reason);
  };
  return {
    userId: stored.user_id,
    deviceId: stored.device_id,
    homeserver: HOMESERVER,
    /** @type {(method: string, path: string, body?: unknown) => Promise<any>} */
    async request(method, path, body) {
      try {
        return await ask(stored.access_token, method, path, body);
      } catch (/** @type {any} */ error) {
        if (error.status === 401) end("expired");
        throw error;
      }
    },
    async signOut() {
      await ask(stored.access_token, "POST", "/_matrix/client/v3/logout", {}).catch(() => null);
      end("signed-out");
    },
    onEnd(/** @type {(reason?: string) => void} */ listener) {
      onEnd = listener;
    },
  };
}

export async function start() {
  const stored = sessionStorage.getItem(STORED);
  return stored ? sessionOf(JSON.parse(stored)) : null;
}

/**
 * @param {string} user
 * @param {string} password
 */
export async function signIn(user, password) {
  const answer = await ask(null, "POST", "/_matrix/client/v3/login", {
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
    initial_device_display_name: "Notification settings",
  });
  sessionStorage.setItem(STORED, JSON.stringify(answer));
  return sessionOf(answer);
}
