/** One connection for all tabs: examples, and a random walk that checks the rules in virtual time. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { sign } from "./support/gregor";
import { type Tab, World } from "./support/world";

const HEARS_MS = 6_000;

for (const locks of [true, false]) {
  describe(locks ? "with locks" : "without locks", () => {
    const world = () => new World({ locks, freezeEvent: true });

    test("ten tabs have one connection and one token call", async () => {
      const browser = world();
      for (let n = 0; n < 10; n++) {
        browser.open();
        await browser.pass(500);
      }
      browser.gateway.create("a");
      await browser.pass(3_000);
      assert.equal(browser.gateway.connections, 1);
      assert.equal(browser.tokens, 1);
      for (const tab of browser.tabs) assert.deepEqual(tab.ids, ["a"]);
    });

    test("ten tabs at once end with one connection", async () => {
      const browser = world();
      for (let n = 0; n < 10; n++) browser.open();
      await browser.pass(10_000);
      assert.equal(browser.gateway.connections, 1);
    });

    test("another tab takes over within a second of a close", async () => {
      const browser = world();
      const first = browser.open();
      await browser.pass(2_000);
      const second = browser.open();
      await browser.pass(2_000);
      assert.equal(first.client.connection.leader, true);
      assert.deepEqual([second.client.connection.leader, second.client.connection.status], [false, "connected"]);

      first.close();
      browser.gateway.create("a");
      await browser.pass(locks ? 1_000 : 1_500);
      assert.deepEqual(second.ids, ["a"]);
      assert.equal(browser.gateway.connections, 1);
    });

    test("a hidden leader gives the connection to a visible tab", async () => {
      const browser = world();
      const first = browser.open();
      await browser.pass(2_000);
      const second = browser.open();
      await browser.pass(2_000);
      first.hide();
      await browser.pass(1_000);
      assert.equal(second.client.connection.leader, true);
      assert.equal(browser.gateway.connections, 1);
    });

    test("a message of a follower is shown everywhere and sent once", async () => {
      const browser = world();
      browser.gateway.create("a");
      browser.gateway.create("b");
      const tabs = [browser.open(), browser.open(), browser.open()];
      await browser.pass(12_000);
      const follower = tabs.find((tab) => !tab.client.connection.leader)!;
      const receipt = follower.client.dismiss("a");
      await browser.pass(10);
      for (const tab of tabs) assert.deepEqual(tab.ids, ["b"]);
      await browser.pass(100);
      assert.deepEqual((await receipt).dismissed, ["a"]);
      assert.equal(browser.gateway.received.length, 1);
      for (const tab of tabs) assert.equal(tab.client.getState().outbox, 0);
    });

    test("foreground and ack are those of any tab", async () => {
      const browser = world();
      const first = browser.open();
      await browser.pass(2_000);
      const second = browser.open(false);
      await browser.pass(2_000);
      browser.gateway.create("a");
      await browser.pass(100);
      second.client.ack();
      first.hide();
      await browser.pass(200);
      assert.equal(browser.gateway.foreground, false);
      assert.deepEqual(browser.gateway.acks, [1]);
      second.show();
      await browser.pass(3_000);
      assert.equal(browser.gateway.foreground, true);
    });
  });
}

for (const locks of [true, false]) {
  const twoTabs = async () => {
    const browser = new World({ locks, freezeEvent: true });
    const first = browser.open();
    await browser.pass(2_000);
    const second = browser.open(false);
    browser.gateway.create("a");
    await browser.pass(2_000);
    return { browser, first, second };
  };

  test(`an ack is not lost with the connection of its tab, locks ${locks}`, async () => {
    const { browser, first, second } = await twoTabs();
    browser.gateway.down = true;
    browser.cut();
    first.client.ack();
    await browser.pass(100);
    first.crash();
    second.show();
    browser.gateway.down = false;
    await browser.pass(HEARS_MS);
    assert.deepEqual(browser.gateway.acks, [1]);
  });

  test(`an unconfirmed ack is sent again by the next leader, locks ${locks}`, async () => {
    const { browser, first, second } = await twoTabs();
    first.client.ack();
    first.crash();
    second.show();
    await browser.pass(HEARS_MS);
    assert.deepEqual(browser.gateway.acks, [1]);
  });

  test(`a tab that opens later sends the ack of another one, locks ${locks}`, async () => {
    const browser = new World({ locks, freezeEvent: true });
    const first = browser.open();
    browser.gateway.create("a");
    await browser.pass(2_000);
    browser.gateway.unreachable.add(first);
    browser.cut();
    first.client.ack();
    await browser.pass(2_000);
    browser.open();
    await browser.pass(HEARS_MS);
    assert.deepEqual(browser.gateway.acks, [1]);
  });

  test(`a better tab that cannot connect follows a worse one, locks ${locks}`, async () => {
    const { browser, first, second } = await twoTabs();
    browser.gateway.unreachable.add(second);
    first.hide();
    second.show();
    await browser.pass(1_000);
    browser.gateway.create("b");
    await browser.pass(100);
    assert.deepEqual(second.ids, ["a", "b"]);
    await browser.pass(20_000);
    browser.gateway.create("c");
    await browser.pass(100);
    assert.deepEqual(second.ids, ["a", "b", "c"]);
    assert.deepEqual([second.client.connection.status, second.client.connection.leader], ["connected", false]);

    browser.gateway.unreachable.clear();
    await browser.pass(22_000);
    assert.equal(second.client.connection.leader, true);
    assert.equal(browser.gateway.connections, 1);
  });

  test(`a tab connects if a better one fails for five seconds, locks ${locks}`, async () => {
    const browser = new World({ locks, freezeEvent: true });
    const first = browser.open();
    browser.gateway.unreachable.add(first);
    await browser.pass(3_000);
    const second = browser.open();
    browser.gateway.create("a");
    await browser.pass(HEARS_MS);
    for (const tab of [first, second]) assert.deepEqual(tab.ids, ["a"]);
  });

  test(`another tab connects after a final close, locks ${locks}`, async () => {
    const browser = new World({ locks, freezeEvent: true });
    const first = browser.open();
    await browser.pass(2_000);
    const second = browser.open();
    await browser.pass(2_000);
    browser.gateway.cut(4503, "refused");
    browser.gateway.create("a");
    await browser.pass(1_500);
    assert.equal(first.client.connection.status, "stopped");
    assert.equal(second.client.connection.leader, true);
    assert.deepEqual(second.ids, ["a"]);

    first.event("pagehide", { persisted: true });
    first.event("pageshow", { persisted: true });
    second.close();
    const third = browser.open();
    await browser.pass(1_500);
    assert.equal(third.client.connection.leader, true);
  });

  test(`a message is never sent by a tab of another user, locks ${locks}`, async () => {
    const browser = new World({ locks, freezeEvent: true });
    const alice = browser.open(true, { token: sign({ sub: "alice", device: "browser", exp: 2e9 }) });
    await browser.pass(2_000);
    const bob = browser.open(true, { token: sign({ sub: "bob", device: "browser", exp: 2e9 }) });
    await browser.pass(1);
    bob.client.dispatch({ system: "kbfs", body: {} });
    await browser.pass(10_000);
    bob.client.dispatch({ system: "kbfs", body: {} });
    await browser.pass(1_000);
    assert.deepEqual(browser.gateway.senders, [bob, bob]);
    assert.deepEqual([alice, bob].map(({ client }) => client.getState().outbox), [0, 0]);
  });
}

test("an ack is sent again after a new history with lower seqs", async () => {
  const browser = new World({ locks: true, freezeEvent: true });
  const tab = browser.open();
  for (const id of ["a", "b", "c"]) browser.gateway.create(id);
  await browser.pass(1_000);
  tab.client.ack();
  await browser.pass(100);
  browser.gateway.forget();
  browser.gateway.create("d");
  await browser.pass(2_000);
  browser.gateway.create("e");
  await browser.pass(100);
  tab.client.ack();
  await browser.pass(100);
  assert.deepEqual(browser.gateway.acks, [3, 1, 2]);
});

test("an old tab sends no ack beyond the new history", async () => {
  const browser = new World({ locks: true, freezeEvent: true });
  const [first] = [browser.open(), browser.open()];
  for (const id of ["a", "b", "c"]) browser.gateway.create(id);
  await browser.pass(10_000);
  first.client.ack();
  await browser.pass(100);
  browser.gateway.forget();
  browser.gateway.create("d");
  // The second tab learns of the new history by the first, and asks it for a copy.
  await browser.pass(10_000);
  assert.deepEqual(browser.gateway.acks, [3, 1]);
});

test("a page shown before its first sync is in the foreground", async () => {
  for (let wait = 0; wait <= 60; wait++) {
    const browser = new World({ locks: true, freezeEvent: true });
    const tab = browser.open(false);
    await browser.pass(wait);
    tab.client.setForeground(true);
    await browser.pass(500);
    assert.equal(browser.gateway.foreground, true, `shown after ${wait} ms`);
  }
});

test("a crashed tab is no longer in the foreground", async () => {
  const browser = new World({ locks: true, freezeEvent: true });
  const first = browser.open();
  first.client.setForeground(false);
  await browser.pass(2_000);
  const second = browser.open();
  await browser.pass(3_000);
  assert.equal(browser.gateway.foreground, true);
  second.crash();
  await browser.pass(13_000);
  assert.equal(browser.gateway.foreground, false);
});

test("a frozen leader is replaced within six seconds, even without a freeze event", async () => {
  const browser = new World({ locks: true, freezeEvent: false });
  const first = browser.open();
  await browser.pass(2_000);
  const second = browser.open(false);
  await browser.pass(2_000);
  first.hide();
  first.freeze();
  second.show();
  browser.gateway.create("a");
  await browser.pass(HEARS_MS);
  assert.deepEqual(second.ids, ["a"]);

  first.thaw();
  await browser.pass(70_000);
  assert.equal(browser.gateway.connections, 1);
});

test("a page connects at once on return from the back/forward cache", async () => {
  const browser = new World({ locks: true, freezeEvent: true });
  const tab = browser.open();
  await browser.pass(2_000);
  tab.event("pagehide", { persisted: true });
  await browser.pass(60_000);
  assert.equal(browser.gateway.connections, 0);
  tab.event("pageshow", { persisted: true });
  await browser.pass(100);
  assert.equal(browser.gateway.connections, 1);
});

test("a hidden tab does not reconnect for ten minutes", async () => {
  const browser = new World({ locks: true, freezeEvent: true });
  const tab = browser.open();
  await browser.pass(2_000);
  tab.hide();
  await browser.pass(600_000);
  assert.equal(browser.gateway.hellos.length, 1);
});

// The walk.

type Step = { act: "open" | "close" | "crash" | "show" | "hide" | "freeze" | "thaw" | "leave" | "create" | "cut" | "dispatch" | "ack" | "look"; tab: number; ms: number; visible: boolean };

const steps = fc.array(
  fc.record({
    act: fc.constantFrom("open", "close", "crash", "show", "hide", "freeze", "thaw", "leave", "create", "create", "cut", "dispatch", "ack", "look"),
    tab: fc.nat(5),
    ms: fc.constantFrom(0, 1, 7, 100, 999, 2_500, 5_500, 20_000),
    visible: fc.boolean(),
  }) as fc.Arbitrary<Step>,
  { minLength: 3, maxLength: 25 },
);

/** Every tab that has been visible for six seconds shows each item that is six seconds old. */
function assertHears(browser: World): void {
  for (const tab of browser.living) {
    for (const [id, at] of browser.gateway.createdAt) {
      if (browser.now - Math.max(at, tab.aliveSince, browser.cutAt) < HEARS_MS) continue;
      assert.ok(tab.ids.includes(id), `a tab does not show ${id} at ${browser.now}`);
    }
  }
}

async function walk(browser: World, walked: Step[]): Promise<void> {
  let made = 0;
  for (const visible of [true, true, false]) browser.open(visible);
  await browser.pass(3_000);
  const act = async ({ act, tab: at, visible }: Step): Promise<void> => {
    const tabs = browser.living;
    const tab: Tab | undefined = tabs[at % Math.max(1, tabs.length)];
    if (act === "create") browser.gateway.create(`i${made++}`);
    else if (act === "open") tabs.length < 5 && browser.open(visible);
    else if (act === "cut") browser.cut();
    else if (act === "dispatch") tab && !tab.frozen && void tab.client.create("note", null, { id: `n${made++}` });
    else if (act === "look") tab && !tab.frozen && tab.client.setForeground(visible);
    else tab?.[act]();
  };
  for (const step of walked) {
    await act(step);
    for (let rest = step.ms; rest > 0; rest -= 500) {
      await browser.pass(Math.min(rest, 500));
      assertHears(browser);
    }
  }
  // At rest.
  for (let n = 0; n < 50; n++) {
    await browser.pass(500);
    assertHears(browser);
  }
  const running = browser.living.filter(({ frozen }) => !frozen);
  const visible = running.filter((tab) => tab.visible);
  if (visible.length) assert.equal(browser.gateway.connections, 1);
  else assert.ok(browser.gateway.connections <= 1);
  assert.equal(browser.stolen, false);
  const isSuspended = (tab: Tab) => tab.frozen && (tab.cached || browser.options.freezeEvent);
  assert.ok(!browser.lockHolder || !isSuspended(browser.lockHolder), "a suspended tab holds the lock");
  assert.ok(![...browser.gateway.sockets].some(({ tab }) => isSuspended(tab)), "a suspended tab has a connection");
  if (visible.length) {
    assert.ok([...browser.gateway.sockets].every(({ tab }) => tab.frozen || tab.visible), "a hidden tab has the connection");
    assert.equal(browser.gateway.foreground, running.some((tab) => tab.client.isForeground), "the foreground of any tab is reported");
    const acks = running.flatMap(({ client, seen }) => [client.wantedAck, seen]);
    assert.ok(Math.max(0, ...browser.gateway.acks) >= Math.max(...acks), `the highest ack is sent: ${acks}`);
  }
  for (const tab of visible) {
    assert.deepEqual(tab.ids, browser.gateway.ids);
    assert.equal(tab.client.getState().outbox, 0);
    assert.deepEqual(tab.errors, []);
  }
}

for (const locks of [true, false]) {
  for (const freezeEvent of [true, false]) {
    test(`random walk: locks ${locks}, freeze event ${freezeEvent}`, async () => {
      await fc.assert(
        fc.asyncProperty(steps, fc.nat(), (walked, seed) => walk(new World({ locks, freezeEvent, seed }), walked)),
        { numRuns: Number(process.env.WALKS ?? 150), endOnFailure: !!process.env.ENDS_EARLY },
      );
    });
  }
}
