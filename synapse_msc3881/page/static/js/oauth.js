// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Signing in with OAuth 2.0, as the Matrix specification has it: server metadata, dynamic
 * registration, authorization code with PKCE (S256), refresh, revocation.
 */
import { base64url, expectAnswer, randomText } from "./answers.js";
import { MatrixError, ask } from "./net.js";

const CLIENT_KEY = "synapse_msc3881.oauth-client";
const CLIENT_NAME = "Notification settings";

const STABLE = "urn:matrix:client:";
const UNSTABLE = "urn:matrix:org.matrix.msc2967.client:";

/**
 * @typedef {object} OAuthServer
 * @property {string} issuer
 * @property {string} authorize
 * @property {string} token
 * @property {string} [register]
 * @property {string} [revoke]
 * @property {boolean} fragment - whether it can answer in the fragment, which no server's log has
 * @property {string} scope - what the names of Matrix scopes begin with
 */

/**
 * The server that signs users of a homeserver in.
 *
 * @param {string} homeserver
 * @returns {Promise<OAuthServer | null>} null where it is the homeserver itself
 */
export async function findServer(homeserver) {
  /** @type {[string, string][]} */
  const places = [
    ["_matrix/client/v1/auth_metadata", STABLE],
    ["_matrix/client/unstable/org.matrix.msc2965/auth_metadata", UNSTABLE],
  ];
  for (const [path, scope] of places) {
    try {
      return readMetadata(await ask("GET", homeserver + path), scope);
    } catch (error) {
      if (!(error instanceof MatrixError) || ![400, 404, 405].includes(error.status)) throw error;
    }
  }
  return null;
}

/**
 * @param {any} metadata
 * @param {string} scope
 * @returns {OAuthServer}
 */
function readMetadata(metadata, scope) {
  const methods = metadata.code_challenge_methods_supported ?? ["S256"];
  const server = {
    issuer: String(metadata.issuer),
    authorize: endpoint(metadata.authorization_endpoint),
    token: endpoint(metadata.token_endpoint),
    register: endpoint(metadata.registration_endpoint),
    revoke: endpoint(metadata.revocation_endpoint),
    fragment: (metadata.response_modes_supported ?? ["fragment"]).includes("fragment"),
    scope,
  };
  if (!server.authorize || !server.token || !methods.includes("S256")) {
    throw new MatrixError(200, "UNUSABLE", "the OAuth server does not do what Matrix needs");
  }
  return server;
}

/**
 * @param {unknown} url
 * @returns {string} "" for what is no such URL: it may be where the browser is sent to
 */
function endpoint(url) {
  return typeof url === "string" && /^https?:\/\/[^\s]+$/i.test(url) ? url : "";
}

/**
 * Sends the browser to the server, which sends it back with a code.
 *
 * @param {OAuthServer} server
 * @param {string} homeserver
 * @param {string} deviceId
 * @throws {MatrixError}
 */
export async function goToServer(server, homeserver, deviceId) {
  if (!crypto.subtle) throw new MatrixError(0, "INSECURE", "the page was loaded without TLS");
  const back = location.origin + location.pathname;
  const clientId = await clientOf(server, back);
  const verifier = randomText();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const state = expectAnswer("oauth", homeserver, { server, clientId, verifier, back, deviceId });
  const url = new URL(server.authorize);
  const values = {
    response_type: "code",
    response_mode: server.fragment ? "fragment" : "query",
    client_id: clientId,
    redirect_uri: back,
    scope: `${server.scope}api:* ${server.scope}device:${deviceId}`,
    state,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(values)) url.searchParams.set(name, value);
  location.assign(url);
}

/**
 * The page's name at the server, which it gets by registering once for each browser.
 *
 * @param {OAuthServer} server
 * @param {string} back
 * @returns {Promise<string>}
 */
async function clientOf(server, back) {
  const key = `${CLIENT_KEY} ${server.issuer} ${back}`;
  const known = localStorage.getItem(key);
  if (known) return known;
  if (!server.register) throw new MatrixError(200, "UNUSABLE", "no dynamic registration");
  const answer = await ask("POST", server.register, {
    json: {
      client_name: CLIENT_NAME,
      client_uri: back,
      redirect_uris: [back],
      application_type: "web",
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
    },
  });
  localStorage.setItem(key, String(answer.client_id));
  return String(answer.client_id);
}

/**
 * Forgets the page's name at a server, so that it registers anew: the server may have forgotten.
 *
 * @param {string} issuer
 * @param {string} back
 */
export function forgetClient(issuer, back) {
  localStorage.removeItem(`${CLIENT_KEY} ${issuer} ${back}`);
}

/**
 * Gets tokens for the code that came back.
 *
 * @param {import("./answers.js").Asked} asked
 * @param {Record<string, string>} values
 * @returns {Promise<any>} the server's answer
 * @throws {MatrixError}
 */
export async function redeemCode(asked, values) {
  const { server, clientId, verifier, back } = asked;
  if (values.iss !== undefined && values.iss !== server.issuer) {
    throw new MatrixError(0, "NOT_ASKED_FOR", "another server answered");
  }
  if (values.error || !values.code) {
    if (values.error !== "access_denied") forgetClient(server.issuer, back);
    throw new MatrixError(400, values.error || "invalid_request", values.error_description ?? "");
  }
  try {
    return await ask("POST", server.token, {
      form: {
        grant_type: "authorization_code",
        code: values.code,
        redirect_uri: back,
        client_id: clientId,
        code_verifier: verifier,
      },
    });
  } catch (error) {
    if (error instanceof MatrixError && error.errcode === "invalid_client") {
      forgetClient(server.issuer, back);
    }
    throw error;
  }
}

/**
 * Gets new tokens.
 *
 * @param {{token: string, clientId: string}} oauth
 * @param {string} refreshToken
 * @returns {Promise<any>} the server's answer
 */
export function refreshTokens(oauth, refreshToken) {
  const form = {
    grant_type: "refresh_token",
    refresh_token: refreshToken,
    client_id: oauth.clientId,
  };
  return ask("POST", oauth.token, { form });
}

/**
 * Ends the session at the server.
 *
 * @param {{revoke: string, clientId: string}} oauth
 * @param {string} token
 * @param {"access_token" | "refresh_token"} kind
 */
export function revokeToken(oauth, token, kind) {
  const form = { token, token_type_hint: kind, client_id: oauth.clientId };
  return ask("POST", oauth.revoke, { form });
}
