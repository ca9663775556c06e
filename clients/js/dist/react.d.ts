/** Hooks for React 18 and newer. One client lives outside of the tree, so a double mount makes no second connection. */
import { type FunctionComponentElement, type ProviderProps, type ReactNode } from "react";
import type { Client, Connection, CoreClient, ShownItem, State } from "./types.js";
/** Gives a client to the hooks below it. `client` may be null, as on a server: the state is then empty. */
export declare const GregorProvider: (props: {
    client: CoreClient | null;
    children?: ReactNode;
}) => FunctionComponentElement<ProviderProps<CoreClient | null>>;
/** Returns the client, for its actions: `useClient()?.dismiss(id)`. */
export declare const useClient: <C extends CoreClient = Client>() => C | null;
/**
 * Returns a part of the state, and renders again when it changes.
 *
 * `equal` compares two results of `select`; give one if `select` makes a new object each time.
 */
export declare function useGregor<T = State>(select?: (state: State) => T, equal?: (a: T, b: T) => boolean): T;
/** Returns the shown items of a category or prefix, or those for which `filter` is true; newest first. */
export declare function useItems(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[];
/** Returns the number for the badge. */
export declare const useBadge: () => number;
/** Returns the connection: whether it is offline, and why. */
export declare const useConnection: () => Connection;
