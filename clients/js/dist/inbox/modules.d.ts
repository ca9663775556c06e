/** The other entry points that the elements need. `inbox` sets them: no other module may import them into its bundle. */
import type { Client, ConnectOptions } from "../types.js";
export interface Modules {
    connect(options: ConnectOptions): Client;
    /** Loads the parts that most pages never need. */
    more(): Promise<typeof import("../inbox-more.js")>;
}
export declare function setModules(given: Modules): void;
export declare function getModules(): Modules;
