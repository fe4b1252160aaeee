// The environment of a feature: connected people, their channels, and the application's
// backend. The same in a browser and in Node.

import { Log, within } from "./log.js";
import { channelName, libraries } from "./libraries.js";

export class Site {
  #open = [];

  /**
   * `environment`: { Pusher, makeEcho(options), app, server: {key, host, port} },
   * where `app` is the URL of the web application.
   */
  constructor(environment, library) {
    this.environment = environment;
    this.library = library;
    this.adapter = libraries[library];
  }

  /** Appends the library to a name, so that libraries do not share users or channels. */
  own(name) {
    return `${name}@${this.library}`;
  }

  channelName(kind, name) {
    return channelName(kind, this.own(name));
  }

  /** Connects a client for each name. A repeated name is a person with two tabs. */
  async people(...names) {
    return Promise.all(names.map((name) => this.#connect(name)));
  }

  pusherOf(person) {
    return this.adapter.pusherOf(person);
  }

  /** Subscribes to a channel, without waiting for the confirmation. */
  channel(person, kind, name) {
    return this.adapter.channel(person, kind, this.own(name));
  }

  /** Subscribes to a channel, records these events, and waits for the confirmation. */
  async listen(person, kind, name, events) {
    const channel = this.channel(person, kind, name);
    const log = new Log(`a listener of ${kind} ${name}`);
    for (const event of events) channel.on(event, (data) => log.record(event, data));
    await within(
      new Promise((resolve, reject) => {
        channel.subscribed(resolve);
        channel.refused((error) => reject(new Error(`${kind} ${name}: ${JSON.stringify(error)}`)));
      }),
      `subscription to ${kind} ${name}`,
    );
    return { ...channel, log };
  }

  /** Calls Pusher's server library in the web application, which has the secret. */
  async backend(method, ...args) {
    const request = { method: "POST", body: JSON.stringify(args) };
    const response = await fetch(`${this.environment.app}/backend/${method}`, request);
    const answer = await response.text();
    if (!response.ok) throw new Error(`${method}: ${response.status} ${answer}`);
    return JSON.parse(answer);
  }

  async publish(kind, name, event, data, params) {
    await this.backend("trigger", this.channelName(kind, name), event, data, params);
  }

  /** Closes all connections of the feature. */
  close() {
    for (const pusher of this.#open.splice(0)) pusher.disconnect();
  }

  async #connect(name) {
    const person = this.adapter.connect(this.environment, this.#options(name));
    const pusher = this.pusherOf(person);
    this.#open.push(pusher);
    const connected = new Promise((resolve) => pusher.connection.bind("connected", resolve));
    await within(connected, `connection of ${name}`);
    return person;
  }

  /** The options of an application. A header identifies the user, in place of a session. */
  #options(name) {
    const { app, server } = this.environment;
    const headers = { Authorization: `Bearer ${this.own(name)}` };
    return {
      key: server.key,
      wsHost: server.host,
      wsPort: server.port,
      cluster: "",
      forceTLS: false,
      enabledTransports: ["ws"],
      authEndpoint: `${app}/broadcasting/auth`,
      auth: { headers },
      userAuthentication: { endpoint: `${app}/broadcasting/user-auth`, headers },
    };
  }
}
