// HTTP side. An entry is one dictionary value: a line of JSON (revision, kind, redirect, hsts,
// origin), then PEM pairs (chain and key together) joined by PAIR_SEPARATOR. Since it is one value,
// it is read and replaced whole.

const PAIR_SEPARATOR = '\x1e';
const REFUSED = '-';

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
    const loop = v.http_cdn_loop || '';
    if (loop.toLowerCase().split(',').some(part => part.split(';')[0].trim() === v.cdn_id)) {
        return r.return(508);
    }
    const scheme = settings.origin.scheme;
    const urls = settings.origin.addresses.map(address => scheme + '://' + address);
    if (!urls.length) {
        return r.return(502);
    }
    v.cdn_loop = loop ? loop + ', ' + v.cdn_id : v.cdn_id;
    v.origin = urls.splice(Math.floor(Math.random() * urls.length), 1)[0];
    v.other_origins = urls.join(' ');
    v.origin_name = settings.origin.name || v.host;
}

// The origin's address gave no answer (an answer of 502 is passed on). Tries one more address for
// requests that may be repeated.
function next_origin(r) {
    const others = r.variables.other_origins;
    if (!others || (r.method !== 'GET' && r.method !== 'HEAD')) {
        return r.return(502);
    }
    r.variables.origin = others.split(' ')[0];
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

function put_entries(r) {
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

export default {load_pairs, https_gate, http_gate, next_origin, metered_domain, control};
