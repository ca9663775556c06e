/**
 * Web Push: the events of a service worker, and the subscription of a page (docs/explanation/delivery.md).
 *
 * Every push shows a notification, even if its item is gone or a page is open: Safari ends a subscription after three
 * pushes that showed nothing. A withdrawal closes its notification at once.
 */
import type { Client } from "./types.js";
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
/** Handles pushes and clicks in this service worker. Call it once, when the worker starts. */
export declare function handlePushes(options?: WorkerOptions): void;
/**
 * Subscribes this page's browser to Web Push and registers the subscription with the device of the client.
 *
 * Call it on each page load if the user has allowed notifications: browsers change subscriptions without an event. It
 * rejects if the server has no VAPID key, or if the browser refuses the subscription.
 */
export declare function subscribePush(client: Client, registration: ServiceWorkerRegistration): Promise<void>;
