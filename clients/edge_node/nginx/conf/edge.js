// HTTP side. An entry is one dictionary value: a line of JSON (revision, kind, redirect, hsts, origin), then PEM
// pairs (chain and key together) joined by PAIR_END. Being one value it is read and replaced whole.

const PAIR_END = '\x1e';
const REFUSED = '-';

// The entry that answers for a name, exact before one-label wildcard: {key, value}, or null.
function find(name) {
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

function settings(found) {
    return JSON.parse(found.value.slice(0, found.value.indexOf('\n')));
}

function sni(r) {
    return (r.variables.ssl_server_name || '').toLowerCase();
}

// js_set of $first_pair; fills $second_pair. An empty slot would kill the handshake, so one pair fills both.
// No entry, or one without a pair, gives "data:", which loads as nothing: the handshake fails.
function pairs(r) {
    const found = find(sni(r));
    const pems = found ? found.value.slice(found.value.indexOf('\n') + 1).split(PAIR_END) : [''];
    r.variables.second_pair = 'data:' + (pems[1] || pems[0]);
    return 'data:' + pems[0];
}

// The live HTTPS entry of the connection's SNI, if the request's host belongs to that same entry.
function covered(r) {
    const name = sni(r);
    const host = r.variables.host;
    const found = find(name);
    if (!found || !host) {
        return null;
    }
    if (host !== name) {
        const other = find(host);
        if (!other || other.key !== found.key) {
            return null;
        }
    }
    const entry = settings(found);
    return entry.kind === 'https' ? {key: found.key, entry: entry} : null;
}

function https_gate(r) {
    const live = covered(r);
    if (!live) {
        return refuse(r);
    }
    r.variables.entry = live.key;
    r.variables.hsts = live.entry.hsts;
    if (live.entry.redirect_mode === 'to_http') {
        return redirect(r, live.entry, 'http://', r.variables.http_suffix);
    }
    to_origin(r, live.entry);
}

function http_gate(r) {
    const found = find(r.variables.host);
    if (!found) {
        return refuse(r);
    }
    const entry = settings(found);
    r.variables.entry = found.key;
    if (entry.kind === 'https' && entry.redirect_mode === 'to_https') {
        return redirect(r, entry, 'https://', r.variables.https_suffix);
    }
    to_origin(r, entry);
}

function refuse(r) {
    r.variables.entry = REFUSED;
    r.return(421);
}

function redirect(r, entry, scheme, suffix) {
    r.return(entry.redirect_status, scheme + r.variables.host + suffix + r.variables.request_uri);
}

// Sets where proxy_pass goes; refuses what has passed this fleet already (RFC 8586) or has no origin.
function to_origin(r, entry) {
    const v = r.variables;
    const loop = v.http_cdn_loop || '';
    if (loop.toLowerCase().split(',').some(part => part.split(';')[0].trim() === v.cdn_id)) {
        return r.return(508);
    }
    const urls = entry.origin.addresses.map(address => entry.origin.scheme + '://' + address);
    if (!urls.length) {
        return r.return(502);
    }
    v.cdn_loop = loop ? loop + ', ' + v.cdn_id : v.cdn_id;
    v.origin = urls.splice(Math.floor(Math.random() * urls.length), 1)[0];
    v.other_origins = urls.join(' ');
    v.origin_name = entry.origin.name || v.host;
}

// The origin's address gave no answer (an answer of 502 is passed on): one more is tried, for what may be repeated.
function next_origin(r) {
    const others = r.variables.other_origins;
    if (!others || (r.method !== 'GET' && r.method !== 'HEAD')) {
        return r.return(502);
    }
    r.variables.origin = others.split(' ')[0];
}

// The domain that a request is counted for, or '' (not logged). Where nginx itself answered before the gate
// (a TRACE, a malformed header) the same rule is applied now: known SNI or host, and a Host was read.
function metered(r) {
    const entry = r.variables.entry;
    if (entry) {
        return entry === REFUSED ? '' : entry;
    }
    if (!r.variables.host) {
        return '';
    }
    const found = r.variables.scheme === 'https' ? covered(r) : find(r.variables.host);
    return found ? found.key : '';
}

// Control socket. Nothing of a body is ever echoed: it holds keys.
const orders = {
    '/put': put,
    '/remove': remove,
    '/revisions': revisions,
    // keys() alone stops at 1,024.
    '/names': () => ngx.shared.entries.keys(ngx.shared.entries.size()),
    '/state': state,
};

function control(r) {
    const order = orders[r.uri];
    if (!order) {
        return r.return(404, '{}');
    }
    try {
        r.return(200, JSON.stringify(order(r)));
    } catch (e) {
        r.return(400, '{}');
    }
}

function put(r) {
    const refused = {};
    JSON.parse(r.requestText).forEach(item => {
        try {
            ngx.shared.entries.set(item[0], item[1]);
        } catch (e) {
            refused[item[0]] = 'the entry zone is full';
        }
    });
    return {refused: refused};
}

function remove(r) {
    JSON.parse(r.requestText).forEach(name => ngx.shared.entries.delete(name));
    return {};
}

function revisions(r) {
    const found = {};
    JSON.parse(r.requestText).forEach(name => {
        const value = ngx.shared.entries.get(name);
        if (value !== undefined) {
            found[name] = settings({value: value}).revision;
        }
    });
    return found;
}

// The boot id lives as long as the dictionaries: over a reload, not over a restart.
function state(r) {
    ngx.shared.boot.add('id', r.variables.request_id);
    const entries = ngx.shared.entries;
    return {
        boot: ngx.shared.boot.get('id'), entries: entries.size(),
        free: entries.freeSpace(),
    };
}

export default {pairs, https_gate, http_gate, next_origin, metered, control};
