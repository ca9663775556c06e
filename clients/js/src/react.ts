/** Hooks for React 18 and newer. One client lives outside of the tree, so a double mount makes no second connection. */

import { createContext, createElement, type FunctionComponentElement, type ProviderProps, type ReactNode, useCallback, useContext, useRef, useSyncExternalStore } from "react";
import type { Client, Connection, CoreClient, ShownItem, State } from "./types";

const Context = createContext<CoreClient | null>(null);

const EMPTY: State = {
  items: [], badge: 0, pending: new Set(), outbox: 0, loaded: false, user: null, device: null, mismatches: 0,
  connection: { status: "starting", transport: null, leader: false, since: 0, offline: false, persisted: false, why: null, code: null },
};

/** Gives a client to the hooks below it. `client` may be null, as on a server: the state is then empty. */
export const GregorProvider = (props: { client: CoreClient | null; children?: ReactNode }): FunctionComponentElement<ProviderProps<CoreClient | null>> =>
  createElement(Context.Provider, { value: props.client }, props.children);

/** Returns the client, for its actions: `useClient()?.dismiss(id)`. */
export const useClient = <C extends CoreClient = Client>(): C | null => useContext(Context) as C | null;

/**
 * Returns a part of the state, and renders again when it changes.
 *
 * `equal` compares two results of `select`; give one if `select` makes a new object each time.
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

/** Returns the shown items of a category or prefix, or those for which `filter` is true; newest first. */
export function useItems(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[] {
  const client = useContext(Context);
  return useGregor((state) => client?.select(filter) ?? state.items);
}

/** Returns the number for the badge. */
export const useBadge = (): number => useGregor((state) => state.badge);

/** Returns the connection: whether it is offline, and why. */
export const useConnection = (): Connection => useGregor((state) => state.connection);
