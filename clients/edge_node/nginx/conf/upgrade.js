// Stream side. The way of upgraded connections (WebSocket) to the origin: nginx's http side has no means
// to end one. The first bytes are the request, with the hop's headers; then the bytes pass as they
// come, and once a second the domain is looked up.

const CHECK_MILLISECONDS = 1000;
// The hop's headers stand together, above all that a visitor sent (`proxy_set_header`).
const HEADER = '\r\nX-Edgetls-Hop-';

// Finds the origin of the request: reads to the end of its head, and sets the variables of
// proxy_pass.
function choose_origin(s) {
    s.on('upstream', function (data) {
        if (data.indexOf('\r\n\r\n') < 0) {
            return;
        }
        const hop = read_hop(data);
        s.variables.upgrade_origin = hop.origin.slice(hop.origin.indexOf('://') + 3);
        s.variables.upgrade_name = hop.name;
        s.variables.upgrade_entry = hop.entry;
        s.done();
    });
}

// Returns the values of the hop's headers, and the bytes [start, end) that they take.
function read_hop(data) {
    const hop = {origin: '', name: '', entry: '', start: data.indexOf(HEADER)};
    let at = hop.start;
    while (at >= 0 && data.indexOf(HEADER, at) === at) {
        const end = data.indexOf('\r\n', at + 2);
        const line = data.slice(at + HEADER.length, end).toString();
        const colon = line.indexOf(': ');
        hop[line.slice(0, colon).toLowerCase()] = line.slice(colon + 2);
        at = end;
    }
    hop.end = at;
    return hop;
}

// Takes the hop's headers out of the request, and ends the connection when the domain is no longer
// served over HTTPS. `upgrade_entry` is empty for a visitor of port 80.
function watch_domain(s) {
    s.on('upstream', function (data, flags) {
        // The first call may come without a byte.
        if (!data.length) {
            s.send(data, flags);
            return;
        }
        s.off('upstream');
        const hop = read_hop(data);
        s.send(Buffer.concat([data.slice(0, hop.start), data.slice(hop.end)]), flags);
    });
    const entry = s.variables.upgrade_entry;
    if (entry) {
        check_domain(entry);
    }
}

function check_domain(entry) {
    const policy = ngx.shared.policies.get(entry);
    if (policy === undefined || policy === 'reject') {
        throw new Error('the domain is closed');
    }
    setTimeout(check_domain, CHECK_MILLISECONDS, entry);
}

export default {choose_origin, watch_domain};
