"""The option table: every verb, option and example of ``udk``, as plain constants.

The light parser (:mod:`.parse`) reads it on every start, :mod:`.clickapp` generates click's commands, help
and completion from it, and a test compares it with the documentation; nothing else knows an option's
spelling.

An option is a row ``(spellings, kind, metavar, help)``. Kinds: ``flag`` (also ``--rm=false``), ``value`` (the
last one wins), ``optional`` (a flag, or a value after ``=``), ``list`` (all are kept, in order), ``ignored``
and ``ignored-flag`` (docker's, accepted because they change nothing here; ``metavar`` of ``ignored`` is what
they take) and ``refused`` and ``refused-flag`` (docker's, refused with ``help`` as the reason). An option is
known by its first long spelling without dashes, ``-`` turned to ``_``.

A verb is ``(usage, summary, options, interspersed, examples)``; where ``interspersed`` is False, everything
after the first word that is not an option belongs to the payload.
"""

from __future__ import annotations

GLOBAL = (
    ("-q --quiet", "flag", "", "Print nothing but results and errors."),
    ("-D --debug", "flag", "", "Show where an error comes from (a traceback); the same as UDK_DEBUG=1."),
    ("--store", "value", "DIR", "Keep images and containers in DIR instead of $UDK_HOME."),
    ("--config", "value", "FILE", "Read FILE after the site's and the user's configuration."),
    ("--insecure", "flag", "", "Talk to registries over plain HTTP or with unverified certificates."),
    ("-V --version", "flag", "", "Print the version and exit."),
    ("-h --help", "flag", "", "Print help and exit."),
    ("--allow-root", "ignored-flag", "", "udocker's; running as root is allowed."),
)

QUIET = (("-q --quiet", "flag", "", "No progress display."),)

JSON = (("--json", "flag", "", "Print JSON instead of text."),)

PLATFORM = (
    ("--platform", "value", "OS/ARCH", "Take the image for this platform (linux/arm64, linux/arm/v7 ...)."),
)

PULL = (
    (
        "--pull",
        "value",
        "WHEN",
        "Pull the image: missing (the default: when the store lacks it), always, or never.",
    ),
)

ENGINE = (
    (
        "--engine",
        "value",
        "NAME",
        "Run with this engine instead of the best one of this node (see `udk doctor`).",
    ),
)

PROCESS = (
    (
        "-e --env",
        "list",
        "NAME[=VALUE]",
        "Set a variable; NAME alone takes the caller's value, if it has one.",
    ),
    (
        "--env-file",
        "list",
        "FILE",
        "Set variables from FILE: one NAME=VALUE or NAME a line, # starts a comment.",
    ),
    ("-w --workdir", "value", "DIR", "Working directory inside the container."),
    (
        "-u --user",
        "value",
        "USER[:GROUP]",
        "Run as this user: names of the image's passwd and group, or ids.",
    ),
    ("-i --interactive", "flag", "", "Keep stdin open (it always is: the payload inherits the caller's)."),
    ("-t --tty", "flag", "", "Give the payload a terminal of its own."),
    ("--privileged", "ignored-flag", "", "Grants nothing: there is no privilege to give."),
    ("--detach-keys", "ignored", "KEYS", "There is nothing to detach from."),
    (
        "-d --detach",
        "refused-flag",
        "",
        "udk has no daemon; put `&` after the command, or let the batch system do it",
    ),
)

CREATE = (
    *PROCESS,
    ("--name", "value", "NAME", "Name the container; a named one stays after the run unless --rm is given."),
    ("--entrypoint", "value", "COMMAND", "Replace the image's entry point; '' removes it."),
    (
        "-v --volume --bind",
        "list",
        "HOST[:CONTAINER[:OPTIONS]]",
        "Show a directory or file of the host inside (ro: read-only); HOST alone shows it at the same path.",
    ),
    (
        "--mount",
        "list",
        "KEY=VALUE,...",
        "type=bind,source=HOST,target=DIR[,readonly] or type=tmpfs,target=DIR[,tmpfs-size=SIZE].",
    ),
    (
        "--tmpfs",
        "list",
        "DIR[:OPTIONS]",
        "An empty directory in memory (size=64m, mode=1777); in some engines on disk, without a limit.",
    ),
    ("--read-only", "flag", "", "Make the root file system read-only; volumes and --tmpfs stay writable."),
    ("--hostname -h", "value", "NAME", "Host name inside."),
    ("--add-host", "list", "NAME:ADDRESS", "Add a line to /etc/hosts."),
    ("--dns", "list", "ADDRESS", "Name server to use instead of the host's."),
    ("--dns-search", "list", "DOMAIN", "Search domain to use instead of the host's."),
    ("--dns-option", "list", "OPTION", "Resolver option to use instead of the host's."),
    ("--network --net", "value", "MODE", "host (the default: the caller's network) or none."),
    (
        "--confine",
        "optional",
        "allow-unix",
        "Let the payload reach nothing but its mounts; allow-unix: but sockets by their path.",
    ),
    ("--pid", "value", "MODE", "private (the default: own process ids) or host."),
    ("--ipc", "value", "MODE", "private (the default: an own /dev/shm) or host."),
    ("--device", "list", "HOST[:CONTAINER]", "Show a device of the host inside."),
    ("--group-add", "list", "GROUP", "Additional group: a name of the image, or an id."),
    ("--ulimit", "list", "NAME=SOFT[:HARD]", "Limit of a resource (nofile=1024, core=0 ...)."),
    ("--shm-size", "value", "SIZE", "Size of /dev/shm (64m ...); half of the memory without it."),
    ("--cpuset-cpus", "value", "LIST", "Run on these processors only (0-3,7)."),
    ("--stop-signal", "value", "SIGNAL", "Signal that ends the payload when its time is up."),
    ("--stop-timeout", "value", "SECONDS", "Time between that signal and SIGKILL (10)."),
    ("--timeout", "value", "DURATION", "End the payload after this time (90, 90s, 15m, 1h30m)."),
    ("-l --label", "list", "NAME=VALUE", "Keep a label with the container."),
    ("--label-file", "list", "FILE", "Read labels from FILE, one NAME=VALUE a line."),
    ("--subids", "flag", "", "Map the caller's subordinate ids (newuidmap) instead of the one id."),
    ("--scratch", "value", "DIR", "Keep what the payload writes in DIR (a fast local disk)."),
    ("--stats", "value", "FILE", "Write the run's exit status, signal, times and memory to FILE as JSON."),
    ("--cidfile", "value", "FILE", "Write the container's id to FILE, which must not exist."),
    *ENGINE,
    *PULL,
    *PLATFORM,
    ("-q --quiet", "flag", "", "No progress display while pulling."),
    # docker's and udocker's that change nothing here
    ("-a --attach", "ignored", "STREAM", "All three streams always are the caller's."),
    ("--annotation", "ignored", "NAME=VALUE", "Nobody reads annotations."),
    ("--blkio-weight", "ignored", "N", "The batch system limits resources."),
    ("--cap-add", "ignored", "CAP", "Capabilities inside reach no further than the container."),
    ("--cap-drop", "ignored", "CAP", "Capabilities inside reach no further than the container."),
    ("--cgroup-parent", "ignored", "PATH", "The payload stays in the caller's control group."),
    ("--cgroupns", "ignored", "MODE", "The payload stays in the caller's control group."),
    ("-c --cpu-shares", "ignored", "N", "The batch system limits resources."),
    ("--cpu-period", "ignored", "N", "The batch system limits resources."),
    ("--cpu-quota", "ignored", "N", "The batch system limits resources."),
    ("--cpus", "ignored", "N", "The batch system limits resources."),
    ("--disable-content-trust", "ignored-flag", "", "Notary is not used."),
    ("--expose", "ignored", "PORT", "The payload uses the caller's network."),
    ("--health-cmd", "ignored", "COMMAND", "Nobody checks health."),
    ("--health-interval", "ignored", "DURATION", "Nobody checks health."),
    ("--health-retries", "ignored", "N", "Nobody checks health."),
    ("--health-start-period", "ignored", "DURATION", "Nobody checks health."),
    ("--health-timeout", "ignored", "DURATION", "Nobody checks health."),
    ("--no-healthcheck", "ignored-flag", "", "Nobody checks health."),
    ("--init", "ignored-flag", "", "There always is one."),
    ("--isolation", "ignored", "MODE", "Windows only."),
    ("--log-driver", "ignored", "NAME", "Output goes to the caller."),
    ("--log-opt", "ignored", "NAME=VALUE", "Output goes to the caller."),
    ("-m --memory", "ignored", "SIZE", "The batch system limits resources."),
    ("--memory-reservation", "ignored", "SIZE", "The batch system limits resources."),
    ("--memory-swap", "ignored", "SIZE", "The batch system limits resources."),
    ("--memory-swappiness", "ignored", "N", "The batch system limits resources."),
    ("--nobanner", "ignored-flag", "", "udocker's; there is no banner."),
    ("--oom-kill-disable", "ignored-flag", "", "The batch system limits resources."),
    ("--oom-score-adj", "ignored", "N", "The batch system limits resources."),
    ("--pids-limit", "ignored", "N", "The batch system limits resources."),
    ("-P --publish-all", "ignored-flag", "", "The payload uses the caller's network."),
    ("--runtime", "ignored", "NAME", "See --engine."),
    ("--security-opt", "ignored", "OPTION", "The payload never gains privileges."),
    ("--sig-proxy", "ignored-flag", "", "Signals always reach the payload."),
    ("--userns", "ignored", "MODE", "See --subids."),
    ("--uts", "ignored", "MODE", "See --hostname."),
    # docker's that would change something, and that udk does not do
    ("--domainname", "refused", "NAME", "udk sets no NIS domain name; use --hostname HOST.DOMAIN"),
    ("--gpus", "refused", "DEVICES", "this version of udk shows no GPUs; use -v and --device"),
    ("--ip", "refused", "ADDRESS", "the payload uses the caller's network; it has no address of its own"),
    ("--ip6", "refused", "ADDRESS", "the payload uses the caller's network; it has no address of its own"),
    ("--link", "refused", "CONTAINER", "the payload uses the caller's network; connect to localhost"),
    (
        "--mac-address",
        "refused",
        "ADDRESS",
        "the payload uses the caller's network; it has no interface of its own",
    ),
    (
        "-p --publish",
        "list",
        "PORT[:PORT]",
        "Accepted where both ports are the same: the network is the caller's.",
    ),
    ("--restart", "value", "POLICY", "Only `no` is accepted: nobody restarts a container."),
    (
        "--storage-opt",
        "refused",
        "OPTION",
        "the container's layer is limited by the disk it is on; see --scratch",
    ),
    ("--sysctl", "refused", "NAME=VALUE", "kernel settings are the node's; ask its administrator"),
    ("--volume-driver", "refused", "NAME", "udk has no volumes of its own; use -v HOST:CONTAINER"),
    ("--volumes-from", "refused", "CONTAINER", "udk has no volumes of its own; repeat the -v options"),
)

RUN = (
    *CREATE,
    ("--rm", "flag", "", "Remove the container after the run (what always happens to an unnamed one)."),
    ("--dry-run", "flag", "", "Print the resolved run as JSON and do nothing."),
)

FORCE = (("-f --force", "flag", "", "Go on where udk would refuse."),)

RUN_EXAMPLES = (
    "udk run debian:12 cat /etc/os-release",
    "udk run -it --rm ubuntu bash",
    "udk run -v $PWD:/data -w /data -e OMP_NUM_THREADS python:3.12 python3 job.py",
    "udk run --read-only --tmpfs /tmp --network none alpine id",
    "udk run oci:./layout:v1 true",
)

VERBS = {
    "run": ("IMAGE [COMMAND [ARG...]]", "Run a command in a container", RUN, False, RUN_EXAMPLES),
    "pull": (
        "IMAGE...",
        "Fetch images into the store",
        (
            *QUIET,
            *PLATFORM,
            ("-a --all-tags", "refused-flag", "", "name the tags; `udk tags NAME` lists them"),
        ),
        True,
        ("udk pull debian:12", "udk pull --platform linux/arm64 alpine", "udk pull docker-archive:image.tar"),
    ),
    "images": (
        "[NAME]",
        "List the images of the store",
        (
            ("-q --quiet", "flag", "", "Print ids only."),
            ("--digests", "flag", "", "Show the digest of each image."),
            ("--no-trunc", "flag", "", "Show ids in full."),
            ("-a --all", "ignored-flag", "", "There are no intermediate images."),
            *JSON,
        ),
        True,
        ("udk images", "udk images --json debian"),
    ),
    "tags": (
        "NAME",
        "List the tags that a registry has for a name",
        JSON,
        True,
        ("udk tags debian", "udk tags --json localhost:5000/team/tool"),
    ),
    "create": (
        "IMAGE [COMMAND [ARG...]]",
        "Make a container and print its id",
        (
            *CREATE,
            ("--rm", "flag", "", "Remove the container after its first run."),
        ),
        False,
        ("udk create --name work debian:12 bash", "id=$(udk create alpine true)"),
    ),
    "start": (
        "CONTAINER",
        "Run a container that exists",
        (
            ("-a --attach", "flag", "", "Attach to its streams (what always happens)."),
            ("-i --interactive", "flag", "", "Keep stdin open (what always happens)."),
            ("--detach-keys", "ignored", "KEYS", "There is nothing to detach from."),
        ),
        True,
        ("udk start -ai work",),
    ),
    "exec": (
        "CONTAINER COMMAND [ARG...]",
        "Run a further command in a running container",
        PROCESS,
        False,
        ("udk exec work ps ax", "udk exec -it -u root work bash"),
    ),
    "setup": (
        "CONTAINER",
        "Choose the engine of a container, or show it",
        (
            (
                "--execmode --engine",
                "value",
                "NAME",
                "Run it with this engine (or udocker mode) from now on.",
            ),
            ("--force", "ignored-flag", "", "udocker's; nothing of a container depends on its engine."),
            ("--purge", "ignored-flag", "", "udocker's; there is nothing of an earlier engine to remove."),
            *JSON,
        ),
        True,
        ("udk setup --execmode=F3 work", "udk setup --engine auto work", "udk setup work"),
    ),
    "ps": (
        "",
        "List containers",
        (
            ("-a --all", "flag", "", "Show all containers, not only those that run."),
            ("-q --quiet", "flag", "", "Print ids only."),
            ("--no-trunc", "flag", "", "Show ids and commands in full."),
            *JSON,
        ),
        True,
        ("udk ps -a", "udk ps --json"),
    ),
    "rm": (
        "CONTAINER...",
        "Remove containers",
        (
            ("-f --force", "flag", "", "End it first if it runs; say nothing if there is none."),
            ("-v --volumes", "ignored-flag", "", "A container's volumes always go with it."),
        ),
        True,
        ("udk rm work", "udk rm -f $(udk ps -aq)"),
    ),
    "rmi": (
        "IMAGE...",
        "Remove images",
        (
            ("-f --force", "flag", "", "Also where a container that does not run was made from it."),
            ("--no-prune", "flag", "", "Leave the layers for the next `udk store gc`."),
        ),
        True,
        ("udk rmi debian:12",),
    ),
    "tag": (
        "IMAGE NAME",
        "Give an image a further name",
        (),
        True,
        ("udk tag debian:12 localhost:5000/base:v1",),
    ),
    "inspect": (
        "NAME...",
        "Show images or containers as JSON",
        (
            (
                "-p --path",
                "flag",
                "",
                "Print the path of the container's own writable tree (made when needed).",
            ),
            ("--lower", "flag", "", "Print the path of the image's shared read-only tree."),
            ("--type", "value", "TYPE", "Look only for an image or only for a container."),
            ("--raw", "flag", "", "Print the image's manifest exactly as the registry sent it."),
            *JSON,
        ),
        True,
        ("udk inspect debian:12", "udk inspect -p work", "udk inspect --raw debian:12 | sha256sum"),
    ),
    "login": (
        "[REGISTRY]",
        "Check credentials with a registry and keep them",
        (
            ("-u --username", "value", "NAME", "User name (asked for on a terminal)."),
            ("-p --password", "value", "PASSWORD", "Password; --password-stdin does not show it to `ps`."),
            ("--password-stdin", "flag", "", "Read the password from stdin."),
            (
                "--authfile",
                "value",
                "FILE",
                "Keep the credentials in FILE instead of ~/.config/udk/auth.json.",
            ),
        ),
        True,
        ("udk login -u me registry.example.org", "udk login -u me --password-stdin ghcr.io < token"),
    ),
    "logout": (
        "[REGISTRY]",
        "Forget the credentials of a registry",
        (
            ("-a --all", "flag", "", "Forget all of them."),
            ("--authfile", "value", "FILE", "Forget those in FILE instead of ~/.config/udk/auth.json."),
        ),
        True,
        ("udk logout ghcr.io", "udk logout --all"),
    ),
    "info": (
        "",
        "Show the store, the configuration and this node",
        JSON,
        True,
        ("udk info", "udk info --json"),
    ),
    "doctor": (
        "",
        "Say which engines work here, which do not, and why",
        (
            *JSON,
            ("--run", "flag", "", "Also run the embedded image udk/hello with each engine that works."),
            ("--engine", "value", "NAME", "Only this engine."),
        ),
        True,
        ("udk doctor", "udk doctor --run"),
    ),
    "version": ("", "Show the version", JSON, True, ("udk version",)),
    "store": (
        "gc|fsck|df|path",
        "Look after the store",
        (
            *JSON,
            ("-q --quiet", "flag", "", "Print results only, not every item."),
            ("-n --dry-run", "flag", "", "gc: say what would go, and remove nothing."),
            ("--repair", "flag", "", "fsck: move what is damaged out of the way."),
            ("--fast", "flag", "", "fsck: do not read every blob."),
        ),
        True,
        ("udk store df", "udk store gc", "udk store fsck --repair", "udk store path"),
    ),
    "cvmfs": (
        "COMMAND [ARG...]",
        "Read CVMFS repositories (see `udk cvmfs --help`)",
        (),
        False,
        ("udk cvmfs ls -l cvmfs://software.example.org/",),
    ),
    "completion": (
        "bash|zsh|fish",
        "Print a completion script for the shell",
        (),
        True,
        ('eval "$(udk completion bash)"', "udk completion fish > ~/.config/fish/completions/udk.fish"),
    ),
    "help": ("[COMMAND]", "Show help", (), True, ("udk help run",)),
}


def key(spellings: str) -> str:
    """The name that the parser's result has for an option: its first long spelling, else the short one."""
    for word in spellings.split():
        if word.startswith("--"):
            return word[2:].replace("-", "_")
    return spellings.split(maxsplit=1)[0].lstrip("-")
