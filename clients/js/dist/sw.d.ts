/**
 * Web Push: the events of a service worker, and the subscription of a page (docs/explanation/delivery.md).
 *
 * Every push shows a notification, also one whose item is gone and one that arrives while a page is open: Safari ends a
 * subscription after three pushes that showed nothing. A notification may be closed afterwards.
 */
import type { Client } from "./types.js";
/** The object `gregor` of a push. */
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
     * The page that a click opens if the item has no link to a page of this origin or of the origin of `url`. Default: the
     * root of the origin of the service worker. A relative link is resolved against it, as with `GREGOR_APP_URL`.
     */
    readonly url?: string;
    /** The title if a push has none, as one that only withdraws. It gets the number of the badge. */
    readonly title?: (badge: number) => string;
    /** More options of the notification: `icon`, `badge`, `actions`. */
    readonly options?: (data: PushData) => NotificationOptions;
}
/** Handles pushes and clicks in this service worker. Call it once, when the worker starts. */
export declare function handlePushes(options?: WorkerOptions): void;
/**
 * Subscribes this page's browser to Web Push and registers the subscription with the device of the client.
 *
 * Call it on each page load once the user has allowed notifications: browsers change subscriptions without an event.
 */
export declare function subscribePush(client: Client, registration: ServiceWorkerRegistration): Promise<void>;
