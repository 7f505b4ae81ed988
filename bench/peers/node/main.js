// graphile-worker as a contestant of bench/decide.py, which starts it and speaks bench/peers/README.md's lines with it.
//
//   node main.js migrate|work|insert|latency --schema s [--settings preset|large|plain] ...
//
// DATABASE_URL names the database.
import { EventEmitter } from "node:events";
import { parseArgs } from "node:util";
import { createInterface } from "node:readline";
import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";

const KIND = "bench_noop";
const WARM_UP = 20;

const [verb] = process.argv.slice(2, 3);
const { values: given } = parseArgs({
  args: process.argv.slice(3),
  options: {
    schema: { type: "string" },
    settings: { type: "string", default: "preset" },
    "max-workers": { type: "string", default: "24" },
    "sleep-ms": { type: "string", default: "0" },
    way: { type: "string", default: "single" },
    jobs: { type: "string", default: "1000" },
    batch: { type: "string", default: "1" },
    callers: { type: "string", default: "1" },
    connections: { type: "string", default: "10" },
    rate: { type: "string", default: "50" },
    seconds: { type: "string", default: "10" },
  },
});
const number = (name) => Number(given[name]);

// preset: that of its own benchmark; large: the same with a local queue of 5,000; plain: without a local queue.
const LOCAL_QUEUE = {
  preset: { size: 500, refetchDelay: { durationMs: 10 } },
  large: { size: 5000, refetchDelay: { durationMs: 10 } },
  plain: { size: -1 },
};

function preset(concurrentJobs, maxPoolSize) {
  return {
    worker: {
      connectionString: process.env.DATABASE_URL,
      schema: given.schema,
      concurrentJobs,
      maxPoolSize,
      gracefulShutdownAbortTimeout: 2500,
      localQueue: LOCAL_QUEUE[given.settings],
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
      logger: new Logger(() => (level, message) => {
        if (level === "error") console.error(message);
      }),
    },
  };
}

function working() {
  const workers = number("max-workers");
  return { preset: preset(workers, workers + 1), noHandleSignals: true, parsedCronItems: [] };
}

const say = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const cpu = () => {
  const used = process.cpuUsage();
  return (used.user + used.system) / 1e6;
};
const now = () => Number(process.hrtime.bigint()) / 1e6;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const line = () => lines.next();

async function ready() {
  say({ ready: true });
  await line();
}

async function work() {
  const ms = number("sleep-ms");
  let worked = 0, said = 0, atOnce = 0, most = 0, first = 0;
  const task = async () => {
    worked++;
    if (ms > 0) {
      most = Math.max(most, ++atOnce);
      await sleep(ms);
      atOnce--;
    }
  };
  await ready();
  const before = cpu();
  const events = new EventEmitter();
  events.once("worker:getJob:start", () => (first = Date.now() / 1000)); // the first fetch
  const runner = await run({ ...working(), events, taskList: { [KIND]: task } });
  const timer = setInterval(() => {
    if (worked !== said) say({ worked: (said = worked) });
  }, 5);
  await line();
  clearInterval(timer);
  const used = cpu() - before;
  const begin = now();
  await runner.stop();
  say({ worked, cpu_s: used, stop_s: (now() - begin) / 1000, first, most });
}

async function insert() {
  const batch = number("batch"), callers = number("callers");
  const calls = Math.max(Math.floor(number("jobs") / batch / callers), 1);
  const utils = await makeWorkerUtils({ preset: preset(1, number("connections")) });
  const oneBatch = (from) =>
    given.way === "single"
      ? utils.addJob(KIND, { num: from })
      : utils.addJobs(Array.from({ length: batch }, (_, i) => ({ identifier: KIND, payload: { num: from + i } })));
  const each = (call) => Promise.all(Array.from({ length: callers }, (_, caller) => call(caller)));
  await each(() => oneBatch(0)); // connections opened, statements prepared
  await ready();
  const before = cpu(), begin = now();
  await each(async (caller) => {
    for (let call = 0; call < calls; call++) await oneBatch((caller * calls + call) * batch);
  });
  say({
    inserted: calls * callers * batch, warmed: callers * batch, seconds: (now() - begin) / 1000, cpu_s: cpu() - before,
  });
  await utils.release();
}

async function latency() {
  const rate = number("rate"), jobs = Math.round(rate * number("seconds"));
  const entered = new Map();
  const task = async (payload) => void entered.set(payload.num, now());
  const runner = await run({ ...working(), taskList: { [KIND]: task } });
  const waitEntered = async (count) => {
    for (const begin = now(); entered.size < count; await sleep(5))
      if (now() - begin > 30000) throw new Error(`${entered.size} of ${count} jobs were started`);
  };
  for (let num = 0; num < WARM_UP; num++) await runner.addJob(KIND, { num: jobs + num });
  await waitEntered(WARM_UP);
  await sleep(1000); // the client goes idle
  await ready();
  const called = [], returned = [], begin = now();
  for (let num = 0; num < jobs; num++) {
    await sleep(Math.max(0, begin + (num * 1000) / rate - now()));
    called.push(now());
    await runner.addJob(KIND, { num });
    returned.push(now());
  }
  await waitEntered(jobs + WARM_UP);
  const rounded = (value) => Math.round(value * 1000) / 1000;
  say({
    waited_ms: returned.map((at, num) => rounded(entered.get(num) - at)),
    insert_ms: returned.map((at, num) => rounded(at - called[num])),
  });
  await runner.stop();
}

const migrate = () => runMigrations({ preset: preset(1, 2) });
const verbs = { migrate, work, insert, latency };
if (!verbs[verb]) throw new Error(`unknown command ${verb}`);
await verbs[verb]();
process.exit(0);
