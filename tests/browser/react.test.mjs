/** Hooks and components of React in a page: one connection in strict mode, changes, events, no needless drawing. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { launch, openPage, picture, until } from "./support/browser.mjs";
import { root, startCluster } from "./support/cluster.mjs";

let cluster, browser;

before(async () => ([cluster, browser] = await Promise.all([startCluster(), launch()])));
after(async () => {
  await browser?.close();
  await cluster?.close();
});

const APP = `
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "gregor-client";
import { GregorBell, GregorInbox, GregorProvider, useBadge, useClient, useConnection, useItems } from "gregor-client/react";

const client = connect(globalThis.config);
globalThis.opened = [];

function Mails() {
  const gregor = useClient();
  return useItems("mail").map(({ id, body }) => <li key={id} onClick={() => gregor.dismiss(id)}>{body.title}</li>);
}
function Room({ name }) {
  return <i>{useItems(name).length}</i>;
}
function Status() {
  return <output>{useBadge()} {useConnection().status}</output>;
}
function App() {
  const [turn, setTurn] = useState(0);
  const texts = { title: "Inbox" };
  return (
    <GregorProvider client={client}>
      <h1>App</h1>
      <button id="again" onClick={() => setTurn(turn + 1)}>Turn {turn}</button>
      <Status />
      <ul id="mails"><Mails /></ul>
      <p id="rooms">{Array.from({ length: 150 }, (_, n) => <Room key={n} name={"room." + n} />)}</p>
      <GregorBell className="bell" i18n={texts} onOpen={({ detail }) => opened.push([turn, detail.open])} />
      {turn < 2 && <GregorInbox category="mail" i18n={texts} renderItem={({ body }) => ({ title: body.title.toUpperCase() })} />}
    </GregorProvider>
  );
}
createRoot(document.querySelector("main")).render(<StrictMode><App /></StrictMode>);
`;

/** Returns the app as one module, with the built files of the client. */
async function bundle() {
  const client = (name) => join(root, "clients", "js", "dist", `${name}.js`);
  const { outputFiles } = await build({
    stdin: { contents: APP, loader: "jsx", resolveDir: import.meta.dirname },
    alias: { "gregor-client": client("index"), "gregor-client/react": client("react"), react: join(import.meta.dirname, "node_modules", "react") },
    bundle: true,
    format: "esm",
    jsx: "automatic",
    write: false,
  });
  return outputFiles[0].text;
}

test("hooks and components of React follow the state", async () => {
  const user = await cluster.user();
  await cluster.create(user.uid, "m1", "mail", { title: "Hello" });
  const config = JSON.stringify({ url: cluster.proxy.urlOf(user.uid), token: user.tokens.phone });
  cluster.proxy.serve("/app.js", `globalThis.config = ${config};\n${await bundle()}`, { "Content-Type": "text/javascript" });
  const html = '<!doctype html><html lang="en"><title>App</title><main></main><script type="module" src="/app.js"></script></html>';
  const page = await openPage(browser, cluster.proxy.serve("/react", html));

  await page.locator("output", { hasText: "1 connected" }).waitFor();
  await page.locator("#mails li", { hasText: "Hello" }).waitFor();
  const row = page.locator("gregor-inbox[category=mail] [data-id=m1]", { hasText: "HELLO" });
  const drawn = await row.elementHandle();
  await page.locator("gregor-bell.bell .badge", { hasText: "1" }).waitFor();
  assert.equal(await page.locator("#rooms i").count(), 150, "more selections than the client keeps");
  assert.equal(cluster.proxy.opened.get(user.uid), 1, "strict mode makes no second connection");

  await page.locator("#again").click();
  await page.locator("#again", { hasText: "Turn 1" }).waitFor();
  await page.locator("gregor-bell").click();
  await page.locator("gregor-bell h2", { hasText: "Inbox" }).waitFor();
  await picture(page, "react");
  assert.deepEqual(await page.evaluate("opened"), [[1, true]], "the listener is that of the last rendering");
  assert.equal(await drawn.evaluate((element) => element.isConnected), true, "equal texts do not draw the list again");

  await page.keyboard.press("Escape");
  await page.locator("#again").click();
  await page.locator("gregor-inbox[category=mail]").waitFor({ state: "detached" });
  await page.locator("#mails li").click();
  await page.locator("output", { hasText: "0 connected" }).waitFor();
  await until(async () => (await cluster.items(user.uid)).length === 0, "the item is dismissed on the server");
  assert.deepEqual(page.problems, []);
});
