// Headless Chromium, as installed on the system.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { launch } from "puppeteer-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

/**
 * Launches Chromium with its profile in `profile`. It is controlled over a pipe, so
 * that it exits when this process is killed.
 */
export async function launchChromium(profile) {
  return launch({
    executablePath: executable(),
    userDataDir: profile,
    pipe: true,
    args: [
      // In containers: the sandbox does not run as root, /dev/shm is small, and
      // there is no GPU.
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-gpu",
      // Background requests of the browser fail: only this machine is reachable.
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ],
  });
}

function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const folders = (process.env.PATH ?? "").split(delimiter);
  const found = NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable);
  if (!found) throw new Error(`none of ${NAMES.join(", ")} on the path, nor $CHROMIUM: run scripts/setup`);
  return found;
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
