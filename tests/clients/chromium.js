// Headless Chromium, as the system has it.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { launch } from "puppeteer-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

/**
 * Launches it with its profile in `profile`. It talks over a pipe, so that it
 * ends by itself when this process is killed.
 */
export async function launchChromium(profile) {
  return launch({
    executablePath: executable(),
    userDataDir: profile,
    pipe: true,
    args: [
      // Containers have neither what the sandbox needs (it refuses root), nor
      // much of /dev/shm, nor a GPU.
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-gpu",
      // A browser likes to call home; there is nobody but this machine.
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
