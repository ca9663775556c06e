/**
 * Hooks and components for React 18 and newer. One client lives outside of the tree, so a double mount makes no second
 * connection.
 */
import { type CSSProperties, type FunctionComponentElement, type ProviderProps, type ReactElement, type ReactNode } from "react";
import type { Shown, Texts } from "./inbox.js";
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
    readonly renderItem?: (item: {
        category: string;
        body: any;
    }) => Shown;
    readonly onAction?: (event: CustomEvent) => void;
    readonly onError?: (event: CustomEvent) => void;
    readonly onOpen?: (event: CustomEvent) => void;
}
/** The element `<gregor-bell>` with the client of the provider. Loads the elements on first render. */
export declare const GregorBell: ({ className, i18n, renderItem, onAction, onError, onOpen, ...attributes }: ElementProps) => ReactElement;
/** The element `<gregor-inbox>` with the client of the provider. Loads the elements on first render. */
export declare const GregorInbox: ({ className, i18n, renderItem, onAction, onError, onOpen, ...attributes }: ElementProps) => ReactElement;
