/** The other entry points that the elements need. `inbox` sets them: no other module may import them into its bundle. */

import type { Client, ConnectOptions } from "../types";

export interface Modules {
  connect(options: ConnectOptions): Client;
  /** Loads the parts that most pages never need. */
  more(): Promise<typeof import("../inbox-more")>;
}

let modules: Modules;

export function setModules(given: Modules): void {
  modules = given;
}

export function getModules(): Modules {
  return modules;
}
