/** The base class of the elements: client, language, and one update for all changes of a turn of the event loop. */

import type { Client, State } from "../types";
import { getModules } from "./modules";
import { borrow, SOURCE_ATTRIBUTES, type Borrowed } from "./source";
import { styles } from "./styles";
import { LANGUAGES, Language, type Texts } from "./texts";

/** A server has no `HTMLElement`. The module can be imported there, but does nothing. */
const Base = (globalThis.HTMLElement ?? class {}) as typeof HTMLElement;

let otherLanguages: Promise<void> | null = null;
let areOthersLoaded = false;

/** Returns why the copy is not up to date: the name of a text, and of a part of the bell. */
export function troubleOf(state: State | null): "stopped" | "offline" | null {
  const { status, offline } = state?.connection ?? {};
  return status === "stopped" ? status : offline ? "offline" : null;
}

export abstract class GregorElement extends Base {
  static observedAttributes = [...SOURCE_ATTRIBUTES, "locale"];

  protected language!: Language;
  #given: Client | null = null;
  #borrowed: Borrowed | null = null;
  #own: Partial<Texts> = {};
  #unsubscribe: (() => void) | null = null;
  #isQueued = false;
  #isBuilt = false;
  #fault: string | false | null | undefined;

  /** The client. Set it to use your own client instead of one from the attributes. */
  get client(): Client | null {
    return this.#given ?? this.#borrowed?.client ?? null;
  }

  set client(client: Client | null) {
    this.#given = client;
    if (this.isConnected) this.#reconnect();
  }

  /** Texts that replace those of the language. */
  get i18n(): Partial<Texts> {
    return this.#own;
  }

  set i18n(texts: Partial<Texts>) {
    this.#own = texts;
    if (this.isConnected) this.#retranslate();
  }

  /** The language: the attribute `locale`, else that of the page, else that of the browser. */
  get locale(): string {
    return this.getAttribute("locale") || this.closest("[lang]")?.getAttribute("lang") || document.documentElement.lang || navigator.language;
  }

  connectedCallback(): void {
    if (!this.#isBuilt) {
      this.#isBuilt = true;
      const root = this.attachShadow({ mode: "open", delegatesFocus: true });
      root.adoptedStyleSheets = [styles()];
      root.append(...this.build());
    }
    this.#retranslate();
    this.#reconnect();
    this.attached();
  }

  disconnectedCallback(): void {
    this.detached();
    this.#disconnect();
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (!this.isConnected || !this.#isBuilt || before === after) return;
    if (name === "locale") this.#retranslate();
    if (SOURCE_ATTRIBUTES.includes(name) || name === "locale") this.#reconnect();
    else this.queue();
  }

  /** Returns the time of this device in Unix seconds. */
  protected now(): number {
    return Date.now() / 1_000;
  }

  /** Fires an event that also reaches listeners outside of the shadow root. Returns false if one called `preventDefault`. */
  protected fire(name: string, detail: unknown, cancelable = false): boolean {
    return this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true, cancelable }));
  }

  /** Returns the content of the shadow root; called once. */
  protected abstract build(): Node[];
  /** Writes the texts of the language that do not depend on the state. */
  protected abstract localize(): void;
  /** Shows a state; null without a client. */
  protected abstract update(state: State | null): void;
  /** Called when the element was added to a document. */
  protected attached(): void {}
  /** Called when the element was removed from its document. */
  protected detached(): void {}

  #retranslate(): void {
    let locale = this.locale;
    try {
      Intl.getCanonicalLocales(locale);
    } catch {
      locale = "en";
    }
    this.language = new Language(locale, this.#own);
    if (!this.language.isKnown && !areOthersLoaded) {
      otherLanguages ??= getModules().more().then(({ OTHER_LANGUAGES }) => {
        areOthersLoaded = true;
        Object.assign(LANGUAGES, OTHER_LANGUAGES);
      });
      otherLanguages.then(() => this.isConnected && this.#retranslate()).catch(() => (otherLanguages = null));
    }
    this.localize();
    this.queue();
  }

  #reconnect(): void {
    this.#disconnect();
    if (this.#given === null) this.#borrowed = borrow(this, this.locale);
    this.#unsubscribe = this.client?.subscribe(() => this.queue()) ?? null;
    this.queue();
  }

  #disconnect(): void {
    this.#unsubscribe?.();
    this.#unsubscribe = null;
    this.#borrowed?.release();
    this.#borrowed = null;
  }

  /** Schedules one update for all changes of this turn. A microtask, since a hidden page gets no animation frame. */
  protected queue(): void {
    if (this.#isQueued) return;
    this.#isQueued = true;
    queueMicrotask(() => {
      this.#isQueued = false;
      if (!this.isConnected) return;
      const state = this.client?.getState() ?? null;
      this.#report(state);
      this.update(state);
    });
  }

  /** Fires `gregor-error` once if the client has stopped or gets no token. A lost network is not an error. */
  #report(state: State | null): void {
    const { status, why } = state?.connection ?? {};
    const fault = why && (status === "stopped" ? `client stopped: ${why}` : why.includes("no device token") && why);
    if (fault === this.#fault) return;
    this.#fault = fault;
    // The inbox of a bell has the same client: only the bell reports.
    if (!fault || (this.getRootNode() as ShadowRoot).host instanceof GregorElement) return;
    console.warn(fault);
    this.fire("gregor-error", { error: new Error(fault) });
  }
}
