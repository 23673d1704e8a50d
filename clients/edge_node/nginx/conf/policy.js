// Stream side. Chooses the policy server that terminates the TLS of a connection, by its SNI.

// js_set of $policy. Exact name before one-label wildcard.
function choose_policy(s) {
    const name = (s.variables.ssl_preread_server_name || '').toLowerCase();
    const policies = ngx.shared.policies;
    const dot = name.indexOf('.');
    return policies.get(name)
        || (dot > 0 && policies.get('*' + name.slice(dot)))
        || 'reject';
}

// One line of JSON: {"put": {name: policy}, "remove": [name], "pools": {pool: origin}}. Its answer goes out by
// `return $answer`.
let reply = '';

function control(s) {
    s.on('upload', function (data) {
        // In the preread phase `data` is all that has arrived so far.
        if (data.slice(-1) === '\n') {
            reply = run_command(data);
            s.done();
        }
    });
}

function run_command(line) {
    const policies = ngx.shared.policies;
    const refused = {};
    try {
        const command = JSON.parse(line);
        Object.keys(command.put).forEach(name => {
            try {
                policies.set(name, command.put[name]);
            } catch (e) {
                refused[name] = 'the policy zone is full';
            }
        });
        command.remove.forEach(name => policies.delete(name));
        Object.keys(command.pools).forEach(pool => {
            ngx.shared.pool_origins.set(pool, JSON.stringify(command.pools[pool]));
        });
    } catch (e) {
        return JSON.stringify({error: 'malformed command'});
    }
    return JSON.stringify({refused: refused});
}

function answer() {
    return reply;
}

export default {choose_policy, control, answer};
