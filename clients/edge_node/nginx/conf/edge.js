// HTTP side. An entry is one dictionary value: a line of JSON (revision, kind, redirect, hsts,
// origin), then PEM pairs (chain and key together) joined by PAIR_SEPARATOR. Since it is one value,
// it is read and replaced whole.

const PAIR_SEPARATOR = '\x1e';
const REFUSED = '-';
// Characters of a header's name (RFC 9110 §5.6.2). nginx passes any, and an origin may read
// `Transfer-Encoding` with a no-break space as the name without it.
const TOKENS = /^[!#$%&'*+.^_`|~0-9A-Za-z-]*$/;
// A name has 255 bytes at most (RFC 1035 §2.3.4), a label of an IPv6 address takes 33.
const MAX_HOSTS = 7;
// Between the attempts in a variable of nginx: of one pass, and of the pass before it left a pool.
const ATTEMPTS = /, | : /;

// Returns the entry that answers for a name, exact before one-label wildcard: {key, value}, or
// null.
function find_entry(name) {
    const entries = ngx.shared.entries;
    let value = entries.get(name);
    if (value !== undefined) {
        return {key: name, value: value};
    }
    const dot = name.indexOf('.');
    if (dot < 1) {
        return null;
    }
    const wildcard = '*' + name.slice(dot);
    value = entries.get(wildcard);
    return value === undefined ? null : {key: wildcard, value: value};
}

function read_settings(found) {
    return JSON.parse(found.value.slice(0, found.value.indexOf('\n')));
}

function server_name(r) {
    return (r.variables.ssl_server_name || '').toLowerCase();
}

// js_set of $first_pair; fills $second_pair. An empty slot would kill the handshake, so one pair
// fills both. Without an entry, or without a pair, the value is "data:", which loads as nothing:
// the handshake fails.
function load_pairs(r) {
    const found = find_entry(server_name(r));
    let pems = [''];
    if (found) {
        pems = found.value.slice(found.value.indexOf('\n') + 1).split(PAIR_SEPARATOR);
    }
    r.variables.second_pair = 'data:' + (pems[1] || pems[0]);
    return 'data:' + pems[0];
}

// Returns the live HTTPS entry of the connection's SNI, if the request's host belongs to that same
// entry; null otherwise.
function covered_entry(r) {
    const name = server_name(r);
    const host = r.variables.host;
    const found = find_entry(name);
    if (!found || !host) {
        return null;
    }
    if (host !== name) {
        const other = find_entry(host);
        if (!other || other.key !== found.key) {
            return null;
        }
    }
    const settings = read_settings(found);
    return settings.kind === 'https' ? {key: found.key, settings: settings} : null;
}

// Access check of every HTTPS request: refuse, redirect, or go to the origin.
function https_gate(r) {
    const live = covered_entry(r);
    if (!live) {
        return refuse(r);
    }
    r.variables.entry = live.key;
    r.variables.hsts = live.settings.hsts;
    if (live.settings.redirect_mode === 'to_http') {
        return redirect(r, live.settings, 'http://', r.variables.http_suffix);
    }
    choose_origin(r, live.settings);
}

// Access check of every HTTP request on port 80: refuse, redirect, or go to the origin.
function http_gate(r) {
    const found = find_entry(r.variables.host);
    if (!found) {
        return refuse(r);
    }
    const settings = read_settings(found);
    r.variables.entry = found.key;
    if (settings.kind === 'https' && settings.redirect_mode === 'to_https') {
        return redirect(r, settings, 'https://', r.variables.https_suffix);
    }
    choose_origin(r, settings);
}

function refuse(r) {
    r.variables.entry = REFUSED;
    r.return(421);
}

function redirect(r, settings, scheme, suffix) {
    const target = scheme + r.variables.host + suffix + r.variables.request_uri;
    r.return(settings.redirect_status, target);
}

// Sets the variables of proxy_pass. Refuses a request that has passed this fleet already (RFC
// 8586), and one whose entry has no origin address.
function choose_origin(r, settings) {
    const v = r.variables;
    const origin = settings.origin;
    if (!has_valid_names(r.rawHeadersIn)) {
        return r.return(400);
    }
    const loop = v.http_cdn_loop || '';
    if (loop.toLowerCase().split(',').some(part => part.split(';')[0].trim() === v.cdn_id)) {
        return fail(r, 508, 'proxy_loop_detected');
    }
    if (!origin.hosts.length) {
        return fail(r, 502, 'dns_error');
    }
    v.cdn_loop = loop ? loop + ', ' + v.cdn_id : v.cdn_id;
    v.direct_origin = origin.scheme + '://' + origin_host(origin) + ':' + origin.port;
    v.origin_name = origin.name || v.host;
    v.origin_key = pool_key(origin);
    v.origin_connection = 'close';
    const pool = may_use_pool(r) && find_pool(origin);
    if (ngx.shared.interim.has(v.origin_key)) {
        v.hop_origin = v.direct_origin;
        v.hop_name = v.origin_name;
        v.origin = v.direct_origin = 'http://interim';
    } else if (pool) {
        v.origin = origin.scheme + '://' + pool;
        v.origin_connection = '';
    } else {
        v.origin = v.direct_origin;
    }
}

// An origin may close a kept connection while a request is under way on it. nginx then repeats the
// request on a new connection, if it may be repeated and has no body.
function may_use_pool(r) {
    const v = r.variables;
    return (r.method === 'GET' || r.method === 'HEAD' || r.method === 'OPTIONS')
        && !v.http_transfer_encoding
        && (!v.http_content_length || v.http_content_length === '0');
}

// Returns the pool of an origin; '' without one, or while an address of it does not answer: a pool
// would try that address again and again.
function find_pool(origin) {
    const unreachable = ngx.shared.unreachable;
    const pool = ngx.shared.pools.get(pool_key(origin));
    if (!pool || origin.hosts.length > MAX_HOSTS) {
        return '';
    }
    if (unreachable.size() && origin.hosts.some(host => unreachable.has(host[0]))) {
        return '';
    }
    return pool;
}

// A pool's connections were verified for one name: two names never share a pool. A pool is given to
// one origin for as long as nginx runs: with a second one, a request could reach the first.
function pool_key(origin) {
    return [origin.scheme, origin.port, origin.name || origin.hosts.map(host => host[1])].join(' ');
}

// The pool has no connection and no live address, which is so for the first seconds: no request was
// sent.
function leave_pool(r) {
    const v = r.variables;
    if (v.origin === v.direct_origin || !/^[0, :]+$/.test(v.upstream_bytes_sent)) {
        return r.return(502);
    }
    v.origin = v.direct_origin;
    v.origin_connection = 'close';
}

// An interim answer that is no 103: nginx takes it for the answer. An HTTP/1.1 visitor gets it and
// what follows as it comes, which is right; on HTTP/2 that would end the stream, so it is a 502.
// Later requests to this origin take the hop.
function note_interim(r) {
    const v = r.variables;
    if (!is_interim(r.status) || !v.origin_key) {
        return '';
    }
    ngx.shared.interim.set(v.origin_key, '');
    if (v.server_protocol !== 'HTTP/2.0') {
        return '';
    }
    r.status = 502;
    return 'http_protocol_error';
}

// js_header_filter of the hop.
function make_hint(r) {
    if (is_interim(r.status)) {
        r.status = 103;
    }
}

function is_interim(status) {
    return status < 200 && status !== 101;
}

function has_valid_names(fields) {
    let names = '';
    for (let n = 0; n < fields.length; n++) {
        names += fields[n][0];
    }
    return TOKENS.test(names);
}

function fail(r, status, error) {
    r.variables.gate_error = error;
    r.return(status);
}

// Returns the name that conf/resolver.js resolves to the origin's addresses, without those that did
// not take a connection lately, unless all are such. A host is [address with port, label].
function origin_host(origin) {
    const unreachable = ngx.shared.unreachable;
    let hosts = origin.hosts;
    if (hosts.length > 1 && unreachable.size()) {
        const reachable = hosts.filter(host => !unreachable.has(host[0]));
        hosts = reachable.length ? reachable : hosts;
    }
    if (hosts.length > MAX_HOSTS) {
        const start = Math.floor(Math.random() * hosts.length);
        hosts = hosts.slice(start).concat(hosts.slice(0, start)).slice(0, MAX_HOSTS);
    }
    return address_name(hosts);
}

function address_name(hosts) {
    return hosts.map(host => host[1]).join('.') + '.origin';
}

// js_set of $proxy_status: the Proxy-Status (RFC 9209) of an answer that is this node's own because
// the origin gave none; empty otherwise. Remembers the addresses that took no connection.
function proxy_status(r) {
    const v = r.variables;
    const error = v.gate_error || note_interim(r) || origin_error(v);
    return error && v.cdn_id + '; error=' + error;
}

function origin_error(v) {
    const connected = v.upstream_connect_time || '';
    if (connected.indexOf('-') < 0 && (v.upstream_header_time || '').indexOf('-') < 0) {
        return '';
    }
    const addresses = v.upstream_addr.split(ATTEMPTS);
    const connect_times = connected.split(ATTEMPTS);
    addresses.forEach((address, n) => {
        // A pool that has no address yet stands in the list by its name, or by port 0.
        if (connect_times[n] === '-' && /:[1-9]/.test(address)) {
            ngx.shared.unreachable.set(address, '');
        }
    });
    const last = addresses.length - 1;
    if (v.upstream_header_time.split(ATTEMPTS)[last] !== '-') {
        return '';
    }
    const timed_out = v.upstream_status.split(ATTEMPTS)[last] === '504';
    if (connect_times[last] !== '-') {
        if (timed_out) {
            return 'connection_read_timeout';
        }
        const received = v.upstream_bytes_received.split(ATTEMPTS)[last];
        return received === '0' ? 'connection_terminated' : 'http_protocol_error';
    }
    if (timed_out) {
        return 'connection_timeout';
    }
    // nginx does not tell a refused connection from a failed TLS handshake.
    return v.origin.startsWith('https')
        ? 'destination_unavailable; details="connection refused or TLS failed"'
        : 'connection_refused';
}

// Returns the domain that a request is counted for, or '' (not logged). Where nginx itself answered
// before the gate (a TRACE, a malformed header), the same rule is applied here: a known SNI or
// host, and a Host that was read.
function metered_domain(r) {
    const entry = r.variables.entry;
    if (entry) {
        return entry === REFUSED ? '' : entry;
    }
    if (!r.variables.host) {
        return '';
    }
    const is_https = r.variables.scheme === 'https';
    const found = is_https ? covered_entry(r) : find_entry(r.variables.host);
    return found ? found.key : '';
}

// Control socket. No part of a body is ever echoed: it holds keys.
const commands = {
    '/put': put_entries,
    '/remove': remove_entries,
    '/revisions': list_revisions,
    // keys() alone stops at 1,024.
    '/names': () => ngx.shared.entries.keys(ngx.shared.entries.size()),
    '/state': read_state,
};

function control(r) {
    const command = commands[r.uri];
    if (!command) {
        return r.return(404, '{}');
    }
    try {
        r.return(200, JSON.stringify(command(r)));
    } catch (e) {
        r.return(400, '{}');
    }
}

// `pools` are the pools of the entries' origins: the caller tells the stream side.
function put_entries(r) {
    const refused = {};
    const pools = {};
    JSON.parse(r.requestText).forEach(item => {
        try {
            ngx.shared.entries.set(item[0], item[1]);
        } catch (e) {
            refused[item[0]] = 'the entry zone is full';
            return;
        }
        const origin = read_settings({value: item[1]}).origin;
        const pool = give_pool(origin, Number(r.variables.pool_count));
        if (pool) {
            pools[pool] = {port: origin.port, name: address_name(origin.hosts)};
        }
    });
    return {refused: refused, pools: pools};
}

// Returns the pool of an origin, the next free one for a new origin; '' when all are given away.
// An https origin without a name is verified for the visitor's Host, which may be any of many.
function give_pool(origin, count) {
    const is_fit = origin.hosts.length && origin.hosts.length <= MAX_HOSTS
        && (origin.name || origin.scheme === 'http');
    if (!is_fit) {
        return '';
    }
    const pools = ngx.shared.pools;
    const counter = ngx.shared.pool_counter;
    const key = pool_key(origin);
    try {
        if (!pools.has(key) && (counter.get('given') || 0) < count) {
            // Another worker may give the origin a pool just now: this one stays unused then.
            pools.add(key, 'pool' + (counter.incr('given', 1, 0) - 1));
        }
    } catch (e) {
        // The zone is full: the origin has no pool.
    }
    const pool = pools.get(key) || '';
    return Number(pool.slice('pool'.length)) < count ? pool : '';
}

function remove_entries(r) {
    JSON.parse(r.requestText).forEach(name => ngx.shared.entries.delete(name));
    return {};
}

function list_revisions(r) {
    const found = {};
    JSON.parse(r.requestText).forEach(name => {
        const value = ngx.shared.entries.get(name);
        if (value !== undefined) {
            found[name] = read_settings({value: value}).revision;
        }
    });
    return found;
}

// The boot id lives as long as the dictionaries: it survives a reload, not a restart.
function read_state(r) {
    ngx.shared.boot.add('id', r.variables.request_id);
    const entries = ngx.shared.entries;
    return {
        boot: ngx.shared.boot.get('id'), entries: entries.size(),
        free: entries.freeSpace(),
    };
}

export default {
    load_pairs, https_gate, http_gate, leave_pool, make_hint, proxy_status, metered_domain, control,
};
