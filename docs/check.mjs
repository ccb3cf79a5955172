// Checks the seal of a run without any of our Python: node 18 or later, no packages.
//   node docs/check.mjs RUN [PUBLIC_KEY.pem]     signature, statement, every file, run log, checkpoints
//   node docs/check.mjs --json FILE...           the strict JSON reader alone: canonical JSON, or REFUSED
// Without a key it takes the one that lies in the run, which shows that the run is whole, not whose it is. What a claim
// is worth is not asked here: numbers are recomputed by `python -m verify` alone. Exit code: 0 ok, 1 refused, 2 misuse.
import { createHash, createPublicKey, verify } from "node:crypto";
import { closeSync, fstatSync, lstatSync, openSync, readFileSync, readdirSync, constants } from "node:fs";
import { basename, join } from "node:path";

const MAX_BYTES = 32 * 2 ** 20, MAX_DEPTH = 32, MAX_LEVELS = 16, MAX_SIGNATURES = 16;
const LARGE = 2n ** 63n - 1n, SAFE = 2n ** 53n - 1n;
const SEGMENT = /^[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}$/;
const TOP = ["SHA256SUMS", "evidence", "run.dsse.json", "runlog"];
const NOT_LOGGED = new Set(["cases.json", "signer.pub.pem"]);

class Refused extends Error {}
const refuse = (why) => { throw new Refused(why); };
const need = (holds, why) => holds || refuse(why);
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const hex = (bytes) => bytes.toString("hex");

// --- strict JSON -----------------------------------------------------------------------------------------------------

class Decimal { constructor(text) { this.text = text; } }

class Reader {
  constructor(text, largest) { this.text = text; this.at = 0; this.largest = largest; }
  space() { while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++; }
  take(word) { need(this.text.startsWith(word, this.at), `JSON: ${word} expected at ${this.at}`); this.at += word.length; }
  sees(mark) { this.space(); return this.text[this.at] === mark; }
  whole() {
    this.space();
    const value = this.value(1);
    this.space();
    need(this.at === this.text.length, "JSON: something after the document");
    return value;
  }
  value(depth) {
    const mark = this.text[this.at];
    need(depth <= MAX_DEPTH || (mark !== "{" && mark !== "["), "JSON: too deep");
    if (mark === "{") return this.object(depth);
    if (mark === "[") return this.list(depth);
    if (mark === '"') return this.string();
    for (const [word, value] of [["true", true], ["false", false], ["null", null]])
      if (this.text.startsWith(word, this.at)) { this.at += word.length; return value; }
    return this.number();
  }
  object(depth) {
    const made = Object.create(null), folded = new Set();
    this.take("{");
    for (let first = true; !this.sees("}"); first = false) {
      if (!first) { this.take(","); this.space(); }
      const key = this.string();
      need(!folded.has(fold(key)), `JSON: key ${JSON.stringify(key)} twice`);
      folded.add(fold(key));
      this.space(); this.take(":"); this.space();
      made[key] = this.value(depth + 1);
    }
    this.take("}");
    return made;
  }
  list(depth) {
    const made = [];
    this.take("[");
    for (let first = true; !this.sees("]"); first = false) {
      if (!first) { this.take(","); this.space(); }
      made.push(this.value(depth + 1));
    }
    this.take("]");
    return made;
  }
  string() {
    const match = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
    match.lastIndex = this.at;
    const found = match.exec(this.text) ?? refuse(`JSON: string expected at ${this.at}`);
    this.at += found[0].length;
    const value = JSON.parse(found[0]);
    need(!LONE.test(value), "JSON: half a surrogate pair");
    return value;
  }
  number() {
    const match = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
    match.lastIndex = this.at;
    const [text, fraction, exponent] = match.exec(this.text) ?? refuse(`JSON: value expected at ${this.at}`);
    this.at += text.length;
    if (fraction === undefined && exponent === undefined) return integer(text, this.largest);
    need(text.length <= 64 && Number.isFinite(Number(text)) && Math.abs(adjusted(text)) <= 400, "JSON: a number that no double holds");
    return new Decimal(text);
  }
}

const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const fold = (key) => key.toUpperCase().toLowerCase();

function integer(text, largest) {
  need(text.length <= 20, "JSON: an integer that is too large");
  const value = BigInt(text);
  need(value <= largest && -value <= largest, "JSON: an integer that is too large");
  return value;
}

// The exponent of the first digit, as in d.ddd x 10^n; zeros count as they are written.
function adjusted(text) {
  const [, whole, fraction = "", exponent = "0"] = /^-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?$/.exec(text);
  const digits = (whole + fraction).replace(/^0+(?=.)/, "");
  return Number(exponent) - fraction.length + digits.length - 1;
}

function strict(bytes, largest = LARGE) {
  need(bytes.length <= MAX_BYTES, "JSON: too large");
  let text;
  try { text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes); } catch { refuse("JSON: not UTF-8"); }
  need(!text.startsWith("\ufeff"), "JSON: a byte-order mark");
  return new Reader(text, largest).whole();
}

const ascii = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
const byCodePoint = (a, b) => Buffer.compare(Buffer.from(a, "utf-8"), Buffer.from(b, "utf-8"));

// Sorted keys, no spaces, ASCII escapes; a number with a fraction keeps its text.
function canonical(value) {
  if (value instanceof Decimal) return value.text;
  if (typeof value === "string") return ascii(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.keys(value).sort(byCodePoint).map((key) => `${canonical(key)}:${canonical(value[key])}`).join(",")}}`;
  return String(value);
}

// --- keys and envelope -----------------------------------------------------------------------------------------------

function base64(text, where) {
  need(typeof text === "string", `${where}: no text`);
  const alphabet = /^[A-Za-z0-9_-]*={0,2}$/.test(text) ? "base64url" : "base64";
  const bytes = Buffer.from(text, alphabet), again = bytes.toString(alphabet);
  need((alphabet === "base64" ? again : again + "=".repeat((4 - (again.length % 4)) % 4)) === text, `${where}: not canonical base64`);
  return bytes;
}

const P = 2n ** 255n - 19n;
const LOW_ORDER = new Set([0n, 1n, P - 1n,
  2707385501144840649318225287225658788936804267575313519463743609750303402022n,
  55188659117513257062467267217118295137698188065244968500265048394206261417927n]);

function publicKey(pem) {
  let key;
  try { key = createPublicKey(pem); } catch { refuse("key: not a public key"); }
  const der = key.export({ type: "spki", format: "der" });
  if (key.asymmetricKeyType === "ed25519") {
    const y = BigInt("0x" + hex(Buffer.from(der.subarray(-32)).reverse())) & (2n ** 255n - 1n);
    need(y < P && !LOW_ORDER.has(y), "key: a point of low order");
  } else need(key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails.namedCurve === "prime256v1", "key: neither Ed25519 nor P-256");
  return { key, id: hex(sha256(der)), raw: der.subarray(-32), digest: key.asymmetricKeyType === "ec" ? "sha256" : null };
}

const exactly = (value, names, where) => {
  need(value !== null && typeof value === "object" && !Array.isArray(value), `${where}: no object`);
  need(Object.keys(value).sort().join() === names.join(), `${where}: other fields than ${names}`);
};

function opened(bytes, signer, predicate, subject) {
  const envelope = strict(bytes);
  exactly(envelope, ["payload", "payloadType", "signatures"], "envelope");
  need(canonical(envelope) + "\n" === bytes.toString("utf-8"), "envelope: not canonical JSON");
  const listed = envelope.signatures;
  need(Array.isArray(listed) && listed.length >= 1 && listed.length <= MAX_SIGNATURES, "envelope: 1 to 16 signatures");
  const payload = base64(envelope.payload, "payload");
  need(![envelope.payload, ...listed.map((one) => one?.sig)].some((text) => /[-_]/.test(text)), "envelope: base64 in another alphabet");
  const kind = Buffer.from(String(envelope.payloadType));
  const message = Buffer.concat([Buffer.from(`DSSEv1 ${kind.length} ${kind} ${payload.length} `), payload]);
  for (const one of listed) {
    exactly(one, ["keyid", "sig"], "signature");
    need(one.keyid === signer.id, "signature: by a key that is not given");
    need(verify(signer.digest, message, signer.key, base64(one.sig, "signature")), "signature: does not hold");
  }
  need(listed.length === 1, "envelope: two signatures by one key");
  need(envelope.payloadType === "application/vnd.in-toto+json", "statement: another payload type");
  const stated = strict(payload, SAFE);
  need(canonical(stated) === payload.toString("utf-8"), "statement: not canonical JSON");
  exactly(stated, ["_type", "predicate", "predicateType", "subject"], "statement");
  need(stated._type === "https://in-toto.io/Statement/v1", "statement: another type");
  need(stated.predicateType === `https://chipassay.dev/attestation/${predicate}`, "statement: another predicate");
  need(Array.isArray(stated.subject) && stated.subject.length === 1 && stated.subject[0].name === subject, "statement: another subject");
  return { stated, digest: hex(sha256(payload)) };
}

// --- files -----------------------------------------------------------------------------------------------------------

function plain(path, where) {
  let handle;
  try { handle = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK); } catch (fault) { refuse(`${where}: ${fault.code}`); }
  try {
    const status = fstatSync(handle);
    need(status.isFile() && status.nlink === 1, `${where}: not a plain file with one link`);
    need(status.size <= 2 ** 31, `${where}: larger than this script reads`);
    return readFileSync(handle);
  } finally { closeSync(handle); }
}

function walk(top, prefix = "", found = new Map()) {
  const names = readdirSync(join(top, prefix), { encoding: "buffer" }).map((name) => name.toString("latin1")).sort();
  need(names.length > 0, `${prefix || "evidence"}: an empty folder`);
  need(new Set(names.map((name) => name.toLowerCase())).size === names.length, `${prefix}: names that differ by case`);
  need((prefix.match(/\//g) ?? []).length < MAX_LEVELS, `${prefix}: too deep`);
  for (const name of names) {
    need(SEGMENT.test(name), `${prefix}${JSON.stringify(name)}: a name that is not allowed`);
    if (lstatSync(join(top, prefix, name)).isDirectory()) walk(top, `${prefix}${name}/`, found);
    else found.set(prefix + name, plain(join(top, prefix, name), prefix + name));
  }
  return found;
}

function sums(bytes) {
  const text = bytes.toString("latin1"), lines = text.split("\n");
  need(lines.pop() === "" && lines.length > 0 && lines.every((line) => /^[0-9a-f]{64}  [!-~]{1,4000}$/.test(line)), "SHA256SUMS: another form");
  const listed = new Map(lines.map((line) => [line.slice(66), line.slice(0, 64)]));
  const sorted = [...listed.keys()].sort(byCodePoint).map((path) => `${listed.get(path)}  ${path}\n`).join("");
  need(sorted === text, "SHA256SUMS: not sorted, or a path twice");
  return listed;
}

function files(run, listed) {
  const found = walk(join(run, "evidence"));
  for (const [path, digest] of listed) need(found.has(path) && hex(sha256(found.get(path))) === digest, `${path}: differs or is missing`);
  for (const path of found.keys()) need(listed.has(path), `${path}: not listed`);
  return found;
}

// --- run log ---------------------------------------------------------------------------------------------------------

const leaf = (line) => sha256(Buffer.from([0]), line);

function root(leaves) {
  if (leaves.length === 0) return sha256();
  if (leaves.length === 1) return leaves[0];
  const half = 2 ** (31 - Math.clz32(leaves.length - 1));
  return sha256(Buffer.from([1]), root(leaves.slice(0, half)), root(leaves.slice(half)));
}

function entries(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(10, at);
    need(end >= 0, "run log: a last line without newline");
    lines.push(bytes.subarray(at, end));
    at = end + 1;
  }
  const read = lines.map((line) => strict(line));
  read.forEach((entry, index) => need(entry?.n === BigInt(index), `run log: entry ${index} is numbered otherwise`));
  need(read.length > 0 && read.every((entry, index) => (entry.type === "open") === (index === 0)), "run log: open first and once");
  return { read, leaves: lines.map(leaf) };
}

function checkpoints(bytes, log, origin, keyAt) {
  const text = bytes.toString("utf-8"), sizes = [];
  const note = /([!-~]{1,300})\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n\n— ([!-~]{1,300}) ([A-Za-z0-9+/]{91}=)\n\n/y;
  while (note.lastIndex < text.length) {
    const [, name, size, wanted, by, signature] = note.exec(text) ?? refuse("checkpoints: another form");
    need(name === origin && by === origin, "checkpoints: of another run");
    need(Number(size) <= log.leaves.length && base64(wanted, "root").equals(root(log.leaves.slice(0, Number(size)))), `checkpoint ${size}: another root`);
    const sig = base64(signature, "checkpoint"), signer = keyAt(Number(size));
    need(sig.subarray(0, 4).equals(sha256(origin + "\n\x01", signer.raw).subarray(0, 4)), `checkpoint ${size}: another key`);
    need(verify(null, Buffer.from(`${name}\n${size}\n${wanted}\n`), signer.key, sig.subarray(4)), `checkpoint ${size}: the signature does not hold`);
    sizes.push(Number(size));
  }
  need(sizes.every((size, index) => index === 0 || size > sizes[index - 1]), "checkpoints: sizes that do not grow");
  due(log.read).forEach((size) => need(sizes.includes(size), `checkpoint ${size}: missing`));
}

// A checkpoint stands at each heartbeat, case end and close that a crash did not follow at once.
function due(read) {
  const after = (index) => ["resume", "recovered"].includes(read[index + 1]?.type);
  return read.flatMap((entry, index) => (["heartbeat", "case-end", "close"].includes(entry.type) && !after(index) ? [index + 1] : []));
}

// Keys of the run log, each certified for this run by the key that seals, each in use from an open or resume entry on.
function runKeys(found, signer, stated, read) {
  const paths = [...found.keys()].filter((path) => path.startsWith("run-keys/")), known = new Map(), digests = [];
  for (let n = 0; n < paths.length; n++) {
    const path = `run-keys/${n}.dsse.json`, made = opened(found.get(path) ?? refuse(`${path}: missing`), signer, "run-key/v1", "run-key");
    const said = made.stated.predicate, der = base64(said.spki, path);
    const key = publicKey({ key: der, format: "der", type: "spki" });
    need(key.digest === null && key.id === made.stated.subject[0].digest?.sha256, `${path}: not the key that it names`);
    need(said.run === stated.run && said.plan?.sha256 === stated.plan?.sha256, `${path}: of another run`);
    need(canonical(said.challenge) === canonical(stated.challenge), `${path}: of another challenge`);
    known.set(key.id, key);
    digests.push({ sha256: made.digest });
  }
  need(canonical(stated.runKeys) === canonical(digests) && digests.length > 0, "run keys: not those that the statement lists");
  const begins = read.flatMap((entry, index) => (["open", "resume"].includes(entry.type) ? [[index, known.get(entry.run_key) ?? refuse(`run log: entry ${index} under a key that is not certified`)]] : []));
  return (size) => begins.filter(([begin]) => begin < size).at(-1)?.[1] ?? refuse(`checkpoint ${size}: before the log began`);
}

function logged(read, listed, found) {
  const named = read.filter((entry) => entry.type === "file");
  for (const { path, sha256: digest, size_bytes: size } of named)
    need(listed.get(path) === digest && BigInt(found.get(path)?.length ?? -1) === size, `run log: ${path} is logged otherwise`);
  const paths = new Set([...named.map((entry) => entry.path), ...NOT_LOGGED]);
  for (const path of listed.keys()) need(paths.has(path), `run log: ${path} was never logged`);
}

function torn(run, read) {
  const named = new Map(read.filter((entry) => entry.type === "recovered").map((entry) => [entry.torn, entry.torn_sha256]));
  const there = readdirSync(join(run, "runlog")).filter((name) => !["entries.jsonl", "checkpoints.txt", "cosignatures.txt"].includes(name));
  need(there.length === named.size, "run log: a torn file too many or too few");
  for (const name of there) need(named.get(name) === hex(sha256(plain(join(run, "runlog", name), name))), `run log: ${name} is not as it was kept`);
}

// --- a run -----------------------------------------------------------------------------------------------------------

function check(run, keyFile) {
  need(readdirSync(run).sort().join() === TOP.join(), `RUN: other names than ${TOP}`);
  for (const folder of ["evidence", "runlog"]) need(lstatSync(join(run, folder)).isDirectory(), `${folder}: not a folder`);
  const signer = publicKey(keyFile ? readFileSync(keyFile) : plain(join(run, "evidence/signer.pub.pem"), "signer.pub.pem"));
  const { stated } = opened(plain(join(run, "run.dsse.json"), "run.dsse.json"), signer, "vendor-run/v1", "SHA256SUMS");
  const list = plain(join(run, "SHA256SUMS"), "SHA256SUMS"), digest = hex(sha256(list));
  need(stated.subject[0].digest?.sha256 === digest, "SHA256SUMS: not the signed one");
  const listed = sums(list), found = files(run, listed);
  const log = entries(plain(join(run, "runlog/entries.jsonl"), "entries.jsonl")), said = stated.predicate.log;
  const last = log.read.at(-1);
  need(last.type === "close" && last.sums_sha256 === digest, "run log: does not close over SHA256SUMS");
  need(said?.size === BigInt(log.leaves.length) && said.root === root(log.leaves).toString("base64"), "run log: not the stated one");
  need(said.origin === `chipassay.dev/run/${stated.predicate.run}`, "run log: of another run");
  checkpoints(plain(join(run, "runlog/checkpoints.txt"), "checkpoints.txt"), log, said.origin, runKeys(found, signer, stated.predicate, log.read));
  logged(log.read, listed, found);
  torn(run, log.read);
  return `OK: ${basename(run)}: signature, statement, ${log.leaves.length} entries of the run log and ${listed.size} files hold`;
}

function answer(make) {
  try {
    console.log(make());
    return 0;
  } catch (fault) {
    if (!(fault instanceof Refused)) { console.error(`could not check: ${fault.message}`); return 2; }
    console.error(`REFUSED: ${fault.message}`);
    return 1;
  }
}

const [first, ...rest] = process.argv.slice(2);
if (first === "--json") {
  const codes = rest.map((file) => answer(() => { try { return canonical(strict(readFileSync(file))); } catch (fault) { if (fault instanceof Refused) console.log("REFUSED"); throw fault; } }));
  process.exit(Math.max(0, ...codes));
} else if (first === undefined || rest.length > 1) {
  console.error("usage: node docs/check.mjs RUN [PUBLIC_KEY.pem] | --json FILE...");
  process.exit(2);
} else process.exit(answer(() => check(first.replace(/\/+$/, ""), rest[0])));
