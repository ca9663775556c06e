/**
 * Hooks and components for React 18 and newer. The client is created outside of the component tree: a second mount, as in
 * strict mode, makes no second connection.
 */

import {
  createContext, createElement, type CSSProperties, type FunctionComponentElement, type ProviderProps, type ReactElement, type ReactNode,
  useCallback, useContext, useEffect, useRef, useSyncExternalStore,
} from "react";
import type { Shown, Texts } from "./inbox";
import type { Client, Connection, CoreClient, ShownItem, State } from "./types";

const Context = createContext<CoreClient | null>(null);

const EMPTY: State = {
  items: [], badge: 0, pending: new Set(), outbox: 0, loaded: false, user: null, device: null, mismatches: 0,
  connection: { status: "starting", transport: null, leader: false, since: 0, offline: false, persisted: false, why: null, code: null },
};

/** Provides a client to the hooks and components below it. With `client={null}`, as on a server, the state is empty. */
export const GregorProvider = (props: { client: CoreClient | null; children?: ReactNode }): FunctionComponentElement<ProviderProps<CoreClient | null>> =>
  createElement(Context.Provider, { value: props.client }, props.children);

/** Returns the client, to call its methods: `useClient()?.dismiss(id)`. Null without a provider or client. */
export const useClient = <C extends CoreClient = Client>(): C | null => useContext(Context) as C | null;

/**
 * Returns a part of the state, and renders again when it changes.
 *
 * `equal` compares two results of `select`. Pass one if `select` returns a new object each time.
 */
export function useGregor<T = State>(
  select: (state: State) => T = (state) => state as T,
  equal: (a: T, b: T) => boolean = Object.is,
): T {
  const client = useContext(Context);
  const last = useRef<{ value: T } | null>(null);
  const subscribe = useCallback((changed: () => void) => client?.subscribe(changed) ?? (() => {}), [client]);
  const read = () => {
    const value = select(client?.getState() ?? EMPTY);
    // React compares by identity: an equal result must be the same object.
    if (!last.current || !equal(last.current.value, value)) last.current = { value };
    return last.current.value;
  };
  return useSyncExternalStore(subscribe, read, read);
}

const isSame = (a: readonly ShownItem[], b: readonly ShownItem[]): boolean => a.length === b.length && a.every((item, at) => item === b[at]);

/** Returns the shown items of a category or prefix, or those for which `filter` is true; newest first. */
export function useItems(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[] {
  const client = useContext(Context);
  // The client keeps the identity of the last hundred selections only; with more components, React would render forever.
  return useGregor((state) => client?.select(filter) ?? state.items, isSame);
}

/** Returns the number on the badge. */
export const useBadge = (): number => useGregor((state) => state.badge);

/** Returns the connection: its status, and why it is offline or stopped. */
export const useConnection = (): Connection => useGregor((state) => state.connection);

/** Attributes, properties and events of the elements (docs/reference/elements.md). */
export interface ElementProps {
  readonly category?: string;
  readonly tabs?: string;
  readonly locale?: string;
  readonly theme?: "light" | "dark" | "auto";
  readonly id?: string;
  readonly className?: string;
  readonly style?: CSSProperties;
  readonly i18n?: Partial<Texts>;
  readonly renderItem?: (item: { category: string; body: any }) => Shown;
  readonly onAction?: (event: CustomEvent) => void;
  readonly onError?: (event: CustomEvent) => void;
  readonly onOpen?: (event: CustomEvent) => void;
}

const component = (tag: string) =>
  function ({ className, i18n = {}, renderItem, onAction, onError, onOpen, ...attributes }: ElementProps): ReactElement {
    const client = useContext(Context);
    const ref = useRef<any>(null);
    useEffect(() => {
      const element = ref.current;
      const events: Record<string, any> = { "gregor-action": onAction, "gregor-error": onError, "gregor-open": onOpen };
      for (const name in events) element.addEventListener(name, events[name]);
      // A property that is set before the element is defined would shadow the class accessor.
      import("./inbox.js").then(() => {
        (element.inbox ?? element).renderItem = renderItem;
        // An equal value must not draw the list again: a component makes new objects each time.
        if (JSON.stringify(element.i18n) !== JSON.stringify(i18n)) element.i18n = i18n;
        if (element.client !== client) element.client = client;
      });
      return () => {
        for (const name in events) element.removeEventListener(name, events[name]);
      };
    });
    return createElement(tag, { ref, class: className, ...attributes });
  };

/** The element `<gregor-bell>` with the client of the provider. The first render loads the elements. */
export const GregorBell = component("gregor-bell");

/** The element `<gregor-inbox>` with the client of the provider. The first render loads the elements. */
export const GregorInbox = component("gregor-inbox");
