// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * An OAuth server that is not ours, oidc-provider, as Matrix homeservers use one: for whom Synapse
 * delegates signing in to, and as an identity provider of Synapse's own single sign-on.
 *
 *     node oauth_server.mjs PORT SECRET TOKEN_SECONDS BRIEF_SECONDS
 *
 * Whoever signs in types a name, and is that user; the tokens of whose name begins with "brief" live
 * for BRIEF_SECONDS. What it is taught here is what Matrix adds: the
 * scopes, the endpoint that tells Synapse of a token, and telling Synapse of devices.
 */
import Provider from "oidc-provider";
import instance from "./node_modules/oidc-provider/lib/helpers/weak_cache.js";

const [port, secret, tokenSeconds, briefSeconds] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}/`;
const MATRIX_SCOPE = /^urn:matrix:(?:org\.matrix\.msc2967\.)?client:(?:api:\*|device:[A-Za-z0-9-]{10,})$/;
const DEVICE = /:device:(.+)$/;

const secondsOf = (_context, { accountId }) =>
  Number(accountId?.startsWith("brief") ? briefSeconds : tokenSeconds);

const provider = new Provider(issuer, {
  clients: [
    {
      // Synapse: for single sign-on, and to ask of tokens.
      client_id: "synapse",
      client_secret: secret,
      redirect_uris: [`${issuer}placeholder`],
      grant_types: ["authorization_code"],
    },
  ],
  claims: { openid: ["sub"], profile: ["name"] },
  cookies: { keys: [secret] },
  discovery: { account_management_uri: `${issuer}account` },
  features: {
    devInteractions: { enabled: true },
    introspection: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
  },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, name: id }) }),
  issueRefreshToken: (_context, client) => client.grantTypeAllowed("refresh_token"),
  rotateRefreshToken: true,
  ttl: { AccessToken: secondsOf, Grant: 3600, Interaction: 3600, Session: 3600 },
});

// Synapse's port is not known yet.
const { redirectUriAllowed } = provider.Client.prototype;
provider.Client.prototype.redirectUriAllowed = function allowed(uri) {
  return this.clientId === "synapse" || redirectUriAllowed.call(this, uri);
};

provider.use(async (context, next) => {
  const { scope } = context.query;
  for (const name of typeof scope === "string" ? scope.split(" ") : []) {
    if (MATRIX_SCOPE.test(name)) instance(provider).configuration.scopes.add(name);
  }
  if (context.path === "/oauth2/introspect") {
    context.body = await introspect(context.req);
    return;
  }
  // As Matrix has it: any client may register from a browser.
  if (context.path === "/reg") {
    context.set("Access-Control-Allow-Origin", "*");
    context.set("Access-Control-Allow-Headers", "Content-Type");
    if (context.method === "OPTIONS") {
      context.status = 204;
      return;
    }
  }
  await next();
  if (context.path === "/token" && context.status === 200) await announce(context.body.access_token);
});

// Matrix Authentication Service tells Synapse which devices there are.

/** The device of each grant, and where its homeserver is. */
const devices = new Map();

async function announce(token) {
  const found = await provider.AccessToken.find(token);
  const device = found?.scope?.split(" ").map((name) => DEVICE.exec(name)?.[1]).find(Boolean);
  if (!device) return;
  const client = await provider.Client.find(found.clientId);
  const { origin } = new URL(client.redirectUris[0]);
  devices.set(found.grantId, { origin, body: { localpart: found.accountId, device_id: device } });
  await tellSynapse("upsert_device", devices.get(found.grantId));
}

provider.on("grant.revoked", async (_context, grant) => {
  if (devices.has(grant)) await tellSynapse("delete_device", devices.get(grant));
});

async function tellSynapse(what, { origin, body }) {
  const answer = await fetch(`${origin}/_synapse/mas/${what}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${secret}`, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) console.error(what, answer.status, await answer.text());
}

/** What Matrix Authentication Service answers. */
async function introspect(request) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const token = new URLSearchParams(body).get("token") ?? "";
  const known = request.headers.authorization === `Bearer ${secret}`;
  const found = known ? await provider.AccessToken.find(token) : undefined;
  if (!found?.isValid) return { active: false };
  return {
    active: true,
    scope: found.scope,
    username: found.accountId,
    device_id: found.scope.split(" ").map((name) => DEVICE.exec(name)?.[1]).find(Boolean),
    expires_in: found.remainingTTL,
  };
}

provider.on("server_error", (_context, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
