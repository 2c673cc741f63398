"""One module per engine, the contract they fulfil (:mod:`.base`), the choice among them (:mod:`.select`)."""
