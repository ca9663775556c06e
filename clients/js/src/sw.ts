/**
 * Web Push: the events of a service worker, and the subscription of a page (docs/explanation/delivery.md).
 *
 * Every push shows a notification, even if its item is gone or a page is open: Safari ends a subscription after three
 * pushes that showed nothing. A withdrawal closes its notification at once.
 */

import type { Client } from "./types";

/** The member `gregor` of a push. */
export interface PushData {
  readonly v: number;
  readonly uid: string;
  readonly kind: "item" | "remind" | "withdraw";
  readonly id: string | null;
  readonly category: string | null;
  readonly link: string | null;
  readonly badge: number;
  readonly withdraw: readonly string[];
  readonly count?: number;
}

export interface WorkerOptions {
  /**
   * The page that a click opens if the item has no link, or a link to another origin than that of the service worker or
   * of `url`. Relative links are resolved against it, as with `GREGOR_APP_URL`. Default: `/` of the service worker.
   */
  readonly url?: string;
  /** Returns the title of a notification whose push has none, such as a withdrawal. Default: the number of the badge. */
  readonly title?: (badge: number) => string;
  /** Returns more options of the notification, such as `icon`, `badge` or `actions`. */
  readonly options?: (data: PushData) => NotificationOptions;
}

type Event_ = { waitUntil(work: Promise<unknown>): void };
type PushEvent_ = Event_ & { notification?: Notification; data?: { json(): any } | null };
type ClickEvent_ = Event_ & { notification: Notification };

const worker = () => globalThis as any;
const tagOf = (data: PushData): string => `gregor:${data.id ?? "summary"}`;

/** Handles pushes and clicks in this service worker. Call it once, when the worker starts. */
export function handlePushes(options: WorkerOptions = {}): void {
  worker().addEventListener("push", (event: PushEvent_) => event.waitUntil(showPush(event, options)));
  worker().addEventListener("notificationclick", (event: ClickEvent_) => event.waitUntil(openClick(event, options)));
}

async function showPush(event: PushEvent_, { title, options }: WorkerOptions): Promise<void> {
  const { registration, navigator } = worker();
  let body: any = {};
  try {
    // A declarative push has no data of its own: the server puts a copy into its notification.
    body = event.notification ? { ...event.notification, gregor: event.notification.data?.gregor } : (event.data!.json() ?? {});
  } catch {
    // A push of another sender must show something, too.
  }
  const data: PushData = { badge: 0, withdraw: [], id: null, kind: "withdraw", ...body.gregor };
  const text = body.title || event.notification?.title || (title ? title(data.badge) : `${data.badge}`);
  const tag = tagOf(data);
  await registration.showNotification(text, {
    body: body.body ?? event.notification?.body,
    tag,
    // A reminder makes a sound again, even if the notification of its item is on the screen.
    renotify: data.kind === "remind",
    silent: data.kind === "withdraw",
    ...options?.(data),
    data: { gregor: data },
  });
  const gone = new Set((data.withdraw ?? []).map((id) => `gregor:${id}`));
  if (data.kind === "withdraw") gone.add(tag);
  for (const shown of await registration.getNotifications()) if (gone.has(shown.tag)) shown.close();
  // A push of another sender has no number.
  if (!body.gregor) return;
  // Android and Firefox have no app badge. If the browser refuses it, the notification must stay.
  await Promise.resolve(data.badge ? navigator.setAppBadge?.(data.badge) : navigator.clearAppBadge?.()).catch(() => {});
}

/** Focuses an open page of the origin and posts it the id of the clicked item. Without an open page, opens one. */
async function openClick({ notification }: ClickEvent_, { url = "/" }: WorkerOptions): Promise<void> {
  const { clients, location } = worker();
  notification.close();
  const data: PushData | undefined = notification.data?.gregor;
  const home = new URL(url, location.origin);
  const linked = data?.link ? pageOf(data.link, home) : null;
  const target = linked ?? home;
  const pages = await clients.matchAll({ type: "window", includeUncontrolled: true });
  const page = pages.find((each: any) => each.url === target.href) ?? pages[0];
  if (!page || target.origin !== location.origin) return void (await clients.openWindow(target.href));
  // A browser may refuse the focus, for example after a long wait. The page still gets the message.
  await page.focus().catch(() => {});
  page.postMessage({ gregor: "click", id: data?.id ?? null, link: linked && data!.link });
}

/** Returns the URL of a link; null unless it is a web page of this origin or of the origin of `home`. */
function pageOf(link: string, home: URL): URL | null {
  try {
    const page = new URL(link, home);
    // The origin of `blob:https://host/…` is `https://host`, too.
    const isOurs = page.origin === home.origin || page.origin === worker().location.origin;
    return isOurs && page.protocol.startsWith("http") ? page : null;
  } catch {
    return null;
  }
}

/**
 * Subscribes this page's browser to Web Push and registers the subscription with the device of the client.
 *
 * Call it on each page load if the user has allowed notifications: browsers change subscriptions without an event. It
 * rejects if the server has no VAPID key, or if the browser refuses the subscription.
 */
export async function subscribePush(client: Client, registration: ServiceWorkerRegistration): Promise<void> {
  const { public_key } = await read(await client.api("push/webpush"));
  const subscription = await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: public_key });
  const { endpoint, keys } = subscription.toJSON();
  const device = encodeURIComponent(client.getState().device!);
  const body = JSON.stringify({ platform: "web", push: { provider: "webpush", token: { endpoint, keys } } });
  const headers = { "Content-Type": "application/json" };
  await read(await client.api(`~/devices/${device}`, { method: "PATCH", headers, body }));
}

/** Returns the JSON of a response. Throws an error with the code and detail of a refusal. */
async function read(response: Response): Promise<any> {
  const document = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(`${document.code ?? response.status}: ${document.detail ?? "the response is not from Gregor"}`);
  return document;
}
