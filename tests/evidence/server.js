// An HTTP server; "break" blocks its event loop, as a long synchronous call does.
const http = require("http");
const readline = require("readline");

http.createServer((_, answer) => answer.end("ok\n")).listen(Number(process.argv[2]), "127.0.0.1", 16, () => {
  console.log("ready");
});
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  require("fs").writeSync(1, line + "\n");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
