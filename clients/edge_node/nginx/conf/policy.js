// Stream side: which policy server ends the TLS of this connection, by SNI. Exact before one-label wildcard.

function choose(s) {
    const name = (s.variables.ssl_preread_server_name || '').toLowerCase();
    const policies = ngx.shared.policies;
    const dot = name.indexOf('.');
    return policies.get(name)
        || (dot > 0 && policies.get('*' + name.slice(dot)))
        || 'reject';
}

// One JSON line: {"put": {name: policy}, "remove": [name]}. Its answer goes out by `return $answer`.
let reply = '';

function control(s) {
    s.on('upload', function (data) {
        // In the preread phase `data` is all that has arrived so far.
        if (data.slice(-1) === '\n') {
            reply = handle(data);
            s.done();
        }
    });
}

function handle(line) {
    const policies = ngx.shared.policies;
    const refused = {};
    try {
        const order = JSON.parse(line);
        Object.keys(order.put).forEach(name => {
            try {
                policies.set(name, order.put[name]);
            } catch (e) {
                refused[name] = 'the policy zone is full';
            }
        });
        order.remove.forEach(name => policies.delete(name));
    } catch (e) {
        return JSON.stringify({error: 'malformed order'});
    }
    return JSON.stringify({refused: refused});
}

function answer() {
    return reply;
}

export default {choose, control, answer};
