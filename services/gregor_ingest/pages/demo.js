/** The demo of `gregor dev`: two devices of one user, and a third one that sends messages as a backend does. */

import { connect } from "/client/inbox.js";

const NAMES = { phone: "Phone", tablet: "Tablet" };
const FAVOURITES = ["alice", "alice,bob", "alice,max"];
const FOLLOWERS = ["max", "carla", "dmitri", "esra", "fatou", "goran", "hana", "ivan"];
const POPUP_MS = 5_000;
const PUSH_WAIT_MS = 30_000;
const $ = (selector, root = document) => root.querySelector(selector);

const session = await (await fetch("/demo/session", { method: "POST" })).json();
const endpoints = { api: location.origin, websocket: session.websocket, streams: session.streams };
const language = new URLSearchParams(location.search).get("lang");
if (language) {
  document.documentElement.lang = language;
  if (/^(ar|he|fa|ur)/.test(language)) document.documentElement.dir = "rtl";
}
$("#uid").textContent = session.uid;

// --- What just happened

const log = $("#log");
const bars = $("#bars");

/** Writes a sentence at the top of the list. */
function say(sentence) {
  const row = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString([], { minute: "2-digit", second: "2-digit" });
  const text = document.createElement("span");
  text.textContent = sentence;
  row.append(time, text);
  log.prepend(row);
  while (log.children.length > 40) log.lastChild.remove();
}

/** Returns a duration as text. */
function shownMs(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** Shows how long a dismissal took to reach the other device, as a number and a bar. */
function measure(ms) {
  const shown = shownMs(ms);
  $("#latency").textContent = shown;
  const bar = document.createElement("i");
  bar.style.height = `${Math.min(34, 4 + ms * 0.9)}px`;
  bars.append(bar);
  while (bars.children.length > 16) bars.firstChild.remove();
  return shown;
}

// --- A device

/** The time and device of each action by item id, to measure how long the other device takes. */
const acted = new Map();
let aggregatedAt = -Infinity;

class Device {
  constructor(name) {
    this.name = name;
    this.label = NAMES[name];
    this.root = document.getElementById(name);
    this.root.append($("#device").content.cloneNode(true));
    this.isOnline = this.isAwake = true;
    this.isSettled = false;
    /** The newest push that the push service keeps while this device has no network. */
    this.keptPush = null;
    this.sockets = new Set();
    this.favourites = [...FAVOURITES];
    const device = this;
    /** A WebSocket that the switch "Network" disconnects. */
    class SwitchedWebSocket extends WebSocket {
      constructor(url, protocols) {
        if (!device.isOnline) return new FailingWebSocket();
        super(url, protocols);
        device.sockets.add(this);
        this.addEventListener("close", () => device.sockets.delete(this));
        // Messages that arrive after the switch was turned off are lost, too.
        this.addEventListener("message", (event) => device.isOnline || event.stopImmediatePropagation());
      }
    }
    this.client = connect({
      url: endpoints,
      token: session.tokens[name],
      transports: ["websocket"],
      tabs: false,
      store: false,
      render: language ?? "en",
      WebSocket: SwitchedWebSocket,
    });
    this.inbox = $("gregor-inbox", this.root);
    if (language) this.inbox.setAttribute("locale", language);
    this.inbox.client = this.client;
    this.inbox.addEventListener("gregor-action", (event) => this.acted(event.detail));
    this.client.subscribe(() => this.show());
    this.client.on("", (event) => this.changed(event));
    this.client.onExternal("kbfs.favorites", (event) => event.type === "message" && this.reload(event));
    for (const input of this.root.querySelectorAll("[data-switch]")) {
      input.addEventListener("change", () => this.switched(input.dataset.switch, input.checked));
    }
    $(".lock", this.root).addEventListener("click", () => {
      this.set("screen", true);
      this.inbox.focus();
    });
    void this.register();
    this.show();
  }

  /** Registers a push token, so that the cluster pushes when the screen is off. */
  async register() {
    await this.client.ready;
    this.isSettled = true;
    const token = [...crypto.getRandomValues(new Uint8Array(32))].map((each) => each.toString(16).padStart(2, "0"));
    const push = { provider: "apns", token: token.join("") };
    await this.api(`~/devices/${this.name}`, "PUT", { platform: "ios", push });
  }

  api(path, method = "GET", body = undefined) {
    const headers = { "Content-Type": "application/json" };
    return this.client.api(path, body ? { method, headers, body: JSON.stringify(body) } : { method });
  }

  show() {
    const { badge, connection, outbox } = this.client.getState();
    $(".count", this.root).textContent = badge ? String(badge) : "";
    const waiting = outbox ? ` · ${outbox} waiting` : "";
    const signal = $(".signal", this.root);
    signal.textContent = (this.isOnline ? (connection.status === "connected" ? "online" : "connecting") : "offline") + waiting;
    signal.toggleAttribute("data-off", !this.isOnline);
    const list = $(".favourites ul", this.root);
    list.replaceChildren(
      ...this.favourites.map((name) => Object.assign(document.createElement("li"), { textContent: name })),
    );
  }

  acted({ action, item, items }) {
    const now = performance.now();
    for (const each of items ?? [item]) {
      acted.set(each.id, { at: now, device: this });
      this.close(each.id);
    }
    if (action === "dismiss") say(`${this.label}: you dismissed “${titleOf(item)}”.${this.isOnline ? "" : " It waits in the outbox."}`);
    if (action === "dismiss-all") {
      say(`${this.label}: you dismissed ${items.length === 1 ? "the only item" : `all ${items.length} items, up to the newest one`} that it shows.`);
    }
  }

  changed(event) {
    const title = titleOf(event.item);
    if (event.type === "created" && event.live) {
      const begun = acted.get(event.item.id);
      if (begun) say(`${this.label}: “${title}” arrived ${shownMs(performance.now() - begun.at)} after it was sent.`);
      if (this.isAwake) this.popup(event.item.id, title, event.item.rendered?.text ?? event.item.body?.text, "now");
    }
    if (event.type === "created" && !event.live && this.isSettled) say(`${this.label}: it caught up with “${title}”.`);
    if (event.type === "dismissed") {
      const begun = acted.get(event.item.id);
      this.close(event.item.id);
      if (begun && begun.device !== this && begun.device) {
        const ms = measure(performance.now() - begun.at);
        say(`${this.label}: “${title}” is gone too, ${ms} after the click on the ${begun.device.label.toLowerCase()}.`);
      } else if (event.reason === "aggregated" && this.name === "phone" && performance.now() - aggregatedAt > 1_000) {
        aggregatedAt = performance.now();
        say("The scheduler replaced the followers by one summary, in one commit: no device ever showed both.");
      }
    }
    if (event.type === "reminded" && this.isAwake) {
      this.popup(event.item.id, title, "You asked to be reminded.", "reminder");
      if (this.name === "phone") say(`A reminder of “${title}” fired on every device.`);
    }
  }

  reload({ body, device }) {
    this.favourites = this.favourites.filter((name) => `/private/${name}` !== body.tlf);
    this.show();
    if (device !== this.name) say(`${this.label}: a message of kbfs.favorites arrived, so it reloaded its list. External messages are not part of the state.`);
  }

  // --- notifications on the screen

  popup(id, title, text, when) {
    this.close(id);
    const popup = document.createElement("button");
    popup.className = "popup";
    popup.addEventListener("click", () => this.open(id, title));
    popup.dataset.id = id;
    const head = document.createElement("small");
    head.append(document.createElement("span"), document.createElement("span"));
    head.firstChild.textContent = "Keybase";
    head.lastChild.textContent = when;
    popup.append(head, Object.assign(document.createElement("b"), { textContent: title }), text ?? "");
    const popups = $(".popups", this.root);
    popups.prepend(popup);
    while (popups.children.length > (this.isAwake ? 1 : 3)) popups.lastChild.remove();
    if (when !== "push") setTimeout(() => popup.remove(), POPUP_MS);
  }

  close(id) {
    for (const popup of this.root.querySelectorAll(".popup")) if (popup.dataset.id === id) popup.remove();
  }

  /** Opens an item as a tap on its notification does: the screen goes on, and the item has the focus. */
  open(id, title) {
    this.close(id);
    this.set("screen", true);
    const row = this.inbox.shadowRoot.querySelector(`[data-id="${CSS.escape(id)}"]`);
    (row ?? this.inbox).focus();
    say(`${this.label}: you opened “${title}”.`);
  }

  /** Shows a push on a dark screen. Without a network, the push service keeps it, and drops an older one. */
  pushed(push) {
    if (!this.isOnline) {
      this.keptPush = push;
      say(`${this.label}: it has no network, so the push service keeps the push.`);
    } else if (!this.isAwake) {
      this.popup(push.id, push.title, push.text, "push");
      say(`${this.label}: a push arrived, because no screen was on for two seconds.`);
    }
  }

  /** Removes a push that the cluster has withdrawn, also one that the push service keeps. */
  withdrawn(id) {
    this.close(id);
    if (this.keptPush?.id === id) {
      this.keptPush = null;
      say(`${this.label}: a withdrawal replaced the push at the push service: it is never shown.`);
    } else if (this.isAwake) say(`${this.label}: a withdrawal found no push to remove, because the screen is on.`);
    else say(`${this.label}: a withdrawal removed the push from the dark screen.`);
  }

  /** Handles the push for an item when the timeline says that the provider has accepted it. */
  async awaitPush(id, title, text) {
    const until = performance.now() + PUSH_WAIT_MS;
    let isSent = false;
    while (performance.now() < until || this.keptPush?.id === id) {
      await new Promise((resolve) => setTimeout(resolve, 400));
      const response = await this.api(`~/items/${encodeURIComponent(id)}`);
      if (!response.ok) continue;
      const { timeline } = await response.json();
      const has = (event) => timeline.some((each) => each.event === event && each.device === this.name);
      if (has("sent") && !isSent) {
        isSent = true;
        if (this.isAwake) return;
        this.pushed({ id, title, text });
      }
      if (has("withdrawn")) return this.withdrawn(id);
      if (timeline.some((each) => each.event === "cancelled" && each.device === this.name)) return;
    }
  }

  // --- switches

  set(name, isOn) {
    const input = $(`[data-switch=${name}]`, this.root);
    if (input.checked !== isOn) {
      input.checked = isOn;
      this.switched(name, isOn);
    }
  }

  switched(name, isOn) {
    if (name === "network") {
      this.isOnline = isOn;
      for (const socket of [...this.sockets]) socket.close(isOn ? 1000 : 3001);
      say(isOn ? `${this.label}: the network is back. It requests the changes since its cursor.` : `${this.label}: no network. It still shows its copy, and keeps your changes in its outbox.`);
      if (isOn) {
        dispatchEvent(new Event("online"));
        const kept = this.keptPush;
        this.keptPush = null;
        if (kept) this.pushed(kept);
      }
    } else {
      if (isOn) darkened.delete(this);
      this.isAwake = isOn;
      this.client.setForeground(isOn);
      $(".lock", this.root).hidden = isOn;
      this.inbox.hidden = !isOn;
      if (isOn) $(".popups", this.root).replaceChildren();
      say(isOn ? `${this.label}: the screen is on.` : `${this.label}: the screen is off. If both screens are off, a new item causes a push.`);
    }
    this.show();
  }
}

/** Replaces a WebSocket while the network is off: it fails after 50 ms. */
class FailingWebSocket extends EventTarget {
  readyState = 0;
  constructor() {
    super();
    setTimeout(() => this.fail(), 50);
  }
  fail() {
    if (this.readyState === 3) return;
    this.readyState = 3;
    for (const event of [new Event("error"), new CloseEvent("close", { code: 1006 })]) {
      this.dispatchEvent(event);
      this[`on${event.type}`]?.(event);
    }
  }
  send() {}
  close() {
    this.fail();
  }
}

function titleOf(item) {
  return item.rendered?.title ?? item.body?.title ?? item.category;
}

// --- Stories

/** Devices whose screen a story has turned off: the next story turns it on. */
const darkened = new Set();
const devices = { phone: new Device("phone"), tablet: new Device("tablet") };
const pair = Object.values(devices);
let follower = 0;

/** Sends a message with the token of the third device, as a backend does with its key. */
async function send(body, system = "gregor") {
  const response = await fetch(`/v1/users/${session.uid}/messages`, {
    method: "POST",
    headers: { Authorization: `Bearer ${session.tokens.backend}`, "Content-Type": "application/json" },
    body: JSON.stringify({ system, body }),
  });
  if (!response.ok) say(`The cluster refused the message: ${(await response.json()).title}`);
}

async function create(category, body, times = {}) {
  const id = crypto.randomUUID();
  acted.set(id, { at: performance.now() });
  for (const device of pair) if (!device.isAwake) void device.awaitPush(id, body.title, body.text);
  await send({ create: { [id]: { category, body, times } } });
}

const STORIES = {
  joined: () => create("demo.joined", { title: "kbob just joined", text: "He can now read /private/alice,bob@twitter." }),
  follower: () => create("demo.follow", { title: `${FOLLOWERS[follower++ % FOLLOWERS.length]} follows you` }),
  invite: () => {
    say("The item will remind you in 8 seconds.");
    const text = "Send him the invite code 4VX9-KT.";
    return create("demo.invite", { title: "You just shared with bob@twitter", text }, { remind_at: ["+8"] });
  },
  favourite: async () => {
    const { phone, tablet } = devices;
    if (!phone.favourites.includes("alice,max")) for (const device of [phone, tablet]) device.favourites = [...FAVOURITES];
    for (const device of [phone, tablet]) device.show();
    say("Phone: you deleted /private/alice,max. The phone sends an external message to the other devices.");
    await phone.client.dispatch({ system: "kbfs.favorites", body: { action: "delete", tlf: "/private/alice,max" } });
    phone.reload({ body: { tlf: "/private/alice,max" }, device: "phone" });
  },
  away: async () => {
    for (const device of pair.filter(({ isAwake }) => isAwake)) {
      darkened.add(device);
      device.set("screen", false);
    }
    await new Promise((resolve) => setTimeout(resolve, 400));
    await create("demo.proof", { title: "A proof of carla broke", text: "carla@github no longer says what she proved." });
    say("The item arrived on both devices, whose screens are off. After two seconds, the scheduler plans a push for each.");
  },
  offline: async () => {
    const { tablet } = devices;
    tablet.set("network", false);
    await create("demo.device", { title: "New device: work laptop", text: "If this was not you, revoke it now." });
    await create("demo.joined", { title: "esra just joined", text: "She can now read /private/alice,esra@github." });
    say("Two items arrived, on the phone only. Dismiss one there, and the tablet will never show it.");
    await new Promise((resolve) => setTimeout(resolve, 6_000));
    tablet.set("network", true);
  },
};

for (const button of document.querySelectorAll("[data-story]")) {
  button.addEventListener("click", () => {
    const { story } = button.dataset;
    if (story !== "away") for (const device of darkened) device.set("screen", true);
    return STORIES[story]();
  });
}

function tick() {
  const now = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  for (const place of document.querySelectorAll(".clock, .lock time")) place.textContent = now;
}
setInterval(tick, 5_000);
tick();
await Promise.all(pair.map((device) => device.client.ready));
say("Both devices are connected, and the digest of each copy equals the server's. Choose a story.");
