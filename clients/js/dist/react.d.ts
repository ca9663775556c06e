/**
 * Hooks and components for React 18 and newer. The client is created outside of the component tree: a second mount, as in
 * strict mode, makes no second connection.
 */
import { type CSSProperties, type FunctionComponentElement, type ProviderProps, type ReactElement, type ReactNode } from "react";
import type { Shown, Texts } from "./inbox.js";
import type { Client, Connection, CoreClient, ShownItem, State } from "./types.js";
/** Provides a client to the hooks and components below it. With `client={null}`, as on a server, the state is empty. */
export declare const GregorProvider: (props: {
    client: CoreClient | null;
    children?: ReactNode;
}) => FunctionComponentElement<ProviderProps<CoreClient | null>>;
/** Returns the client, to call its methods: `useClient()?.dismiss(id)`. Null without a provider or client. */
export declare const useClient: <C extends CoreClient = Client>() => C | null;
/**
 * Returns a part of the state, and renders again when it changes.
 *
 * `equal` compares two results of `select`. Pass one if `select` returns a new object each time.
 */
export declare function useGregor<T = State>(select?: (state: State) => T, equal?: (a: T, b: T) => boolean): T;
/** Returns the shown items of a category or prefix, or those for which `filter` is true; newest first. */
export declare function useItems(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[];
/** Returns the number on the badge. */
export declare const useBadge: () => number;
/** Returns the connection: its status, and why it is offline or stopped. */
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
/** The element `<gregor-bell>` with the client of the provider. The first render loads the elements. */
export declare const GregorBell: ({ className, i18n, renderItem, onAction, onError, onOpen, ...attributes }: ElementProps) => ReactElement;
/** The element `<gregor-inbox>` with the client of the provider. The first render loads the elements. */
export declare const GregorInbox: ({ className, i18n, renderItem, onAction, onError, onOpen, ...attributes }: ElementProps) => ReactElement;
