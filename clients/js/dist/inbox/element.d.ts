/** The base class of the elements: client, language, and one update for all changes of a turn of the event loop. */
import type { Client, State } from "../types.js";
import { Language, type Texts } from "./texts.js";
/** A server has no `HTMLElement`. The module can be imported there, but does nothing. */
declare const Base: typeof HTMLElement;
/** Returns why the copy is not up to date: the name of a text, and of a part of the bell. */
export declare function troubleOf(state: State | null): "stopped" | "offline" | null;
export declare abstract class GregorElement extends Base {
    #private;
    static observedAttributes: string[];
    protected language: Language;
    /** The client. Set it to use your own client instead of one from the attributes. */
    get client(): Client | null;
    set client(client: Client | null);
    /** Texts that replace those of the language. */
    get i18n(): Partial<Texts>;
    set i18n(texts: Partial<Texts>);
    /** The language: the attribute `locale`, else that of the page, else that of the browser. */
    get locale(): string;
    connectedCallback(): void;
    disconnectedCallback(): void;
    attributeChangedCallback(name: string, before: string | null, after: string | null): void;
    /** Returns the time of this device in Unix seconds. */
    protected now(): number;
    /** Fires an event that also reaches listeners outside of the shadow root. Returns false if one called `preventDefault`. */
    protected fire(name: string, detail: unknown, cancelable?: boolean): boolean;
    /** Returns the content of the shadow root; called once. */
    protected abstract build(): Node[];
    /** Writes the texts of the language that do not depend on the state. */
    protected abstract localize(): void;
    /** Shows a state; null without a client. */
    protected abstract update(state: State | null): void;
    /** Called when the element was added to a document. */
    protected attached(): void;
    /** Called when the element was removed from its document. */
    protected detached(): void;
    /** Schedules one update for all changes of this turn. A microtask, since a hidden page gets no animation frame. */
    protected queue(): void;
}
export {};
