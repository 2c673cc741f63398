"""Distribution-spec client: transport, authentication, credentials, mirrors, resumable fetch; a small
server."""
