// WorkOS's own emulator, for tests/workos_emulator.py: a seed on the first line of stdin, an address on the first line of stdout.
// Each further line is "reset". It ends when stdin does, so also with a test that was killed.
import net from "node:net";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

// The emulator listens on all interfaces, and has no setting for that.
const listen = net.Server.prototype.listen;
const port = new Promise((resolve) => {
  net.Server.prototype.listen = function (wanted, _host, ...more) {
    this.once("listening", () => resolve(this.address().port));
    return listen.call(this, wanted, "127.0.0.1", ...more);
  };
});

const { createEmulator } = await import(pathToFileURL(`${process.argv[2]}/node_modules/workos/dist/emulate/index.js`));
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const emulator = await createEmulator({ port: 0, seed: JSON.parse((await lines.next()).value) });
console.log(JSON.stringify({ url: `http://127.0.0.1:${await port}` }));
while (!(await lines.next()).done) {
  emulator.reset();
  console.log("{}");
}
process.exit(0);
