# Shared by ci/demo and ci/test: set-up of a new machine, then the same script again as an ordinary user.
# Sourced by bash with `set -eu`; needs $here (the checkout) and $self (the calling script's name).

ci_user=udk-ci

log() { printf '== %s\n' "$*" >&2; }

# install_packages demo|all: what is missing of ci/packages.txt, as root on a Debian-like machine.
install_packages() {
    local want=() missing=() p
    if [ "$1" = demo ]; then
        mapfile -t want < <(awk '$1 !~ /^#/ && $2 == "demo" { print $1 }' "$here/ci/packages.txt")
    else
        mapfile -t want < <(awk '$1 !~ /^#/ && NF { print $1 }' "$here/ci/packages.txt")
    fi
    for p in "${want[@]}"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || { log "no apt-get: please install ${missing[*]}"; return; }
    log "installing ${missing[*]}"
    apt-get update -qq || true
    # One by one after a failure: an older or newer Debian may lack one of them, and the tests say what they miss.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        for p in "${missing[@]}"; do
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$p" >/dev/null ||
                log "could not install $p"
        done
}

# become_user ARGS: makes the ordinary user, hands it a copy of this checkout and runs the same script as that user.
become_user() {
    local home src shared v keep=()
    id "$ci_user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$ci_user"
    grep -q "^$ci_user:" /etc/subuid 2>/dev/null ||
        usermod --add-subuids 200000-265535 --add-subgids 200000-265535 "$ci_user"
    home=$(getent passwd "$ci_user" | cut -d: -f6)
    src=$home/src-$(printf %s "$here" | sha256sum | cut -c1-8)
    mkdir -p "$src"
    # What git knows of plus what is new here; the virtual environment of an earlier run stays.
    (cd "$src" && find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +)
    (cd "$here" && { git -c safe.directory='*' ls-files -z --cached --others --exclude-standard 2>/dev/null ||
        find . -path ./.git -prune -o -type f -print0; } |
        while IFS= read -r -d '' f; do if [ -e "$f" ]; then printf '%s\0' "$f"; fi; done | tar -c --null -T -) |
        tar -x --no-same-owner -C "$src"
    chown -R "$ci_user:" "$src"
    shared=
    if [ -d "$here/../shared/data" ]; then
        shared=$home/shared-data
        rm -rf "$shared"
        cp -r --no-preserve=all "$here/../shared/data" "$shared"
        chown -R "$ci_user:" "$shared"
    fi
    for v in $(compgen -e | grep -E '^(UDK_CI|CI|LANG|LC_ALL|TERM|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|PIP_[A-Z_]*|SSL_CERT_[A-Z]*|REQUESTS_CA_BUNDLE)$'); do
        keep+=("$v=${!v}")
    done
    log "going on as $ci_user in $src"
    cd "$src"
    exec runuser -u "$ci_user" -- env -i ${keep[@]+"${keep[@]}"} HOME="$home" USER="$ci_user" LOGNAME="$ci_user" \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin ${shared:+UDK_SHARED="$shared"} \
        bash "$src/ci/$self" "$@"
}

# make_venv [EXTRA,...]: a virtual environment beside the checkout with udk installed in editable form.
make_venv() {
    local python=${PYTHON:-/usr/bin/python3} want pip
    [ -x "$python" ] || python=python3
    venv=$here/.venv
    want=$("$python" -c 'import sys; print(sys.version)'; cat "$here/pyproject.toml" "$here/setup.py"; echo "$1")
    if [ "$(cat "$venv/made-from" 2>/dev/null)" != "$want" ]; then
        log "making a virtual environment"
        rm -rf "$venv"
        "$python" -m venv "$venv"
        pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
        { "${pip[@]}" --upgrade pip 'setuptools>=64' wheel &&
            "${pip[@]}" --no-build-isolation -e "$here${1:+[$1]}"; } >"$venv/pip.log" 2>&1 || {
            tail -n 40 "$venv/pip.log" >&2
            exit 1
        }
        printf '%s\n' "$want" >"$venv/made-from"
    fi
    (cd "$here" && "$venv/bin/python" setup.py native)
    PATH=$venv/bin:$PATH
}
