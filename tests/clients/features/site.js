// What a feature is given: people who connect, their channels, and the
// application's backend. The same in a browser and in Node.

import { Log, within } from "./log.js";
import { channelName, libraries } from "./libraries.js";

export class Site {
  #open = [];

  /**
   * `environment`: { Pusher, makeEcho(options), app, server: {key, host, port} },
   * where `app` is the address of the web application.
   */
  constructor(environment, library) {
    this.environment = environment;
    this.library = library;
    this.words = libraries[library];
  }

  /** The users and channels of one library are none of the other's. */
  own(name) {
    return `${name}@${this.library}`;
  }

  channelName(kind, name) {
    return channelName(kind, this.own(name));
  }

  /** A connected client for each; a person who is named twice has two tabs. */
  async people(...names) {
    return Promise.all(names.map((name) => this.#connect(name)));
  }

  pusherOf(person) {
    return this.words.pusherOf(person);
  }

  /** Opens a channel, whatever the answer will be. */
  channel(person, kind, name) {
    return this.words.channel(person, kind, this.own(name));
  }

  /** Opens a channel, notes these events, and waits until it is subscribed. */
  async listen(person, kind, name, events) {
    const channel = this.channel(person, kind, name);
    const log = new Log(`a listener of ${kind} ${name}`);
    for (const event of events) channel.on(event, (data) => log.note(event, data));
    await within(
      new Promise((resolve, reject) => {
        channel.subscribed(resolve);
        channel.refused((error) => reject(new Error(`${kind} ${name}: ${JSON.stringify(error)}`)));
      }),
      `subscription to ${kind} ${name}`,
    );
    return { ...channel, log };
  }

  /** A call of Pusher's server library, made where the secret is. */
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

  /** Ends every connection of the feature. */
  close() {
    for (const pusher of this.#open.splice(0)) pusher.disconnect();
  }

  async #connect(name) {
    const person = this.words.connect(this.environment, this.#options(name));
    const pusher = this.pusherOf(person);
    this.#open.push(pusher);
    const connected = new Promise((resolve) => pusher.connection.bind("connected", resolve));
    await within(connected, `connection of ${name}`);
    return person;
  }

  /** As an application writes them. Who it is, a header tells, as a session would. */
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
