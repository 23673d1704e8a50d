// Stream side. A name server for this nginx alone. It answers two kinds of names:
// - a name that holds the addresses of an origin: each label in hex is one, IPv4 in 8 digits, IPv6
//   in 32 (`7f000001.20010db8000000000000000000000001.origin`). nginx fails over between the
//   addresses of one name only. Such an answer never changes.
// - the service of a pool (`_origin._tcp.pool7`): the port and the name of the addresses of the
//   origin that the pool was given to. nginx keeps the connections of a pool and uses them again.

const HEADER_BYTES = 12;
const ADDRESS_TTL_SECONDS = 3600;
// nginx asks one second after the end of the time to live.
const POOL_TTL_SECONDS = 4;
// Pools are given out in order. The next ones ask each second, the later ones seldom, and not all at
// once: a burst would fill the socket's buffer.
const WATCHFUL_POOLS = 8;
const FREE_POOL_TTL_SECONDS = {least: 5, spread: 16};
// A free pool has a peer that refuses at once.
const FREE_POOL = {port: 0, name: '7f000001.origin'};
// By type of record (RFC 1035 §3.2.2, RFC 3596): the hex digits of its addresses.
const DIGITS = {1: 8, 28: 32};
const SRV = 33;

let reply = '';

function serve(s) {
    s.on('upstream', function (query) {
        try {
            reply = answer_query(query);
        } catch (e) {
            reply = '';
        }
        s.done();
    });
}

// Returns the answer (RFC 1035 §4.1) to a query with one question.
function answer_query(query) {
    let end = HEADER_BYTES;
    const labels = [];
    while (query[end]) {
        labels.push(query.slice(end + 1, end + 1 + query[end]).toString());
        end += query[end] + 1;
    }
    const type = query.readUInt16BE(end + 1);
    const records = type === SRV ? find_pool(labels[2]) : find_addresses(labels, type);
    const header = Buffer.alloc(HEADER_BYTES);
    query.copy(header, 0, 0, 2);
    header.writeUInt16BE(0x8180, 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(records.length, 6);
    return Buffer.concat([header, query.slice(HEADER_BYTES, end + 5)].concat(records));
}

function find_addresses(labels, type) {
    return labels.filter(label => label.length === DIGITS[type]).map(
        label => make_record(type, ADDRESS_TTL_SECONDS, Buffer.from(label, 'hex')));
}

// Returns the SRV record (RFC 2782) of a pool.
function find_pool(label) {
    const pools = ngx.shared.pool_origins;
    const found = pools.get(label);
    const pool = found === undefined ? FREE_POOL : JSON.parse(found);
    const head = Buffer.alloc(6);
    head.writeUInt16BE(pool.port, 4);
    const parts = [head];
    pool.name.split('.').forEach(part => parts.push(Buffer.from([part.length]), Buffer.from(part)));
    parts.push(Buffer.alloc(1));
    let ttl = POOL_TTL_SECONDS;
    if (found === undefined) {
        const number = Number(label.slice('pool'.length));
        const is_next = number < pools.size() + WATCHFUL_POOLS;
        const late = FREE_POOL_TTL_SECONDS;
        ttl = is_next ? 0 : late.least + number % late.spread;
    }
    return [make_record(SRV, ttl, Buffer.concat(parts))];
}

function make_record(type, ttl, data) {
    const head = Buffer.alloc(12);
    // The record's name is a pointer to the question's.
    head.writeUInt16BE(0xc000 + HEADER_BYTES, 0);
    head.writeUInt16BE(type, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt32BE(ttl, 6);
    head.writeUInt16BE(data.length, 10);
    return Buffer.concat([head, data]);
}

function answer() {
    return reply;
}

export default {serve, answer};
