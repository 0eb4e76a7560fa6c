// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Sessions of matrix-js-sdk, which do what they are told by JSON on standard input, a command to a
// line: {"session": …, "command": …, "arguments": […]}. Each is answered by a line on standard
// output: {"result": …}, or {"error": {"message": …, "status": …, "errcode": …}}.
// It ends with standard input.

import { createInterface } from "node:readline";

// Standard output is for answers, and the SDK looks for these when it is loaded.
console.log = console.info = console.debug = console.trace = () => {};
const { createClient, ClientEvent, SyncState } = await import("matrix-js-sdk");

const TIMEOUT_MS = 60_000;
const sessions = new Map();

function makeClient(options) {
    const sent = [];
    const fetchFn = (resource, init = {}) => {
        const { pathname, search } = new URL(resource);
        const body = typeof init.body === "string" ? JSON.parse(init.body) : null;
        sent.push({ method: init.method, path: pathname + search, body });
        return fetch(resource, init);
    };
    return { client: createClient({ ...options, fetchFn }), sent };
}

const commands = {
    async login(name, baseUrl, user, password, deviceId) {
        const answer = await createClient({ baseUrl }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
            device_id: deviceId,
        });
        const { user_id: userId, device_id, access_token: accessToken } = answer;
        sessions.set(name, makeClient({ baseUrl, userId, deviceId: device_id, accessToken }));
    },

    /** A method of MatrixClient. */
    async call(name, method, ...args) {
        return await sessions.get(name).client[method](...args);
    },

    /** Start to sync, and return when the first sync is there. */
    async start(name) {
        const { client } = sessions.get(name);
        const prepared = new Promise((resolve) => {
            client.on(ClientEvent.Sync, (state) => state === SyncState.Prepared && resolve());
        });
        await client.startClient({ initialSyncLimit: 50 });
        await prepared;
    },

    /** The push rules, as the SDK holds them after the last sync. */
    pushRules: (name) => sessions.get(name).client.pushRules,

    /**
     * What the SDK's push processor says of an event, or of the invite to a room; null before
     * it has come.
     */
    actionsFor(name, roomId, eventId) {
        const { client } = sessions.get(name);
        const room = client.getRoom(roomId);
        if (!room) return null;
        const invite = () =>
            room.getMyMembership() === "invite" &&
            room.currentState.getStateEvents("m.room.member", client.getUserId());
        const event = room.findEventById(eventId) || invite();
        return event ? client.pushProcessor.actionsForEvent(event) : null;
    },

    /** The requests that the SDK has sent since the last look. */
    sent: (name) => sessions.get(name).sent.splice(0),
};

function timeout(command) {
    return new Promise((_, reject) => {
        setTimeout(() => reject(new Error(`${command} took too long`)), TIMEOUT_MS).unref();
    });
}

for await (const line of createInterface({ input: process.stdin })) {
    const { session, command, arguments: args } = JSON.parse(line);
    let answer;
    try {
        const result = await Promise.race([commands[command](session, ...args), timeout(command)]);
        answer = { result: result ?? null };
    } catch (error) {
        const { message, httpStatus: status = null, errcode = null } = error;
        answer = { error: { message, status, errcode } };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}

for (const { client } of sessions.values()) client.stopClient();
process.exit(0);
