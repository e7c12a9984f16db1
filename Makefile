# The two that a newcomer needs: `make test`, and `make` for the binary.
GO      ?= go
PKGS    := ./...
VERSION := $(shell cat VERSION)

.PHONY: build test test-setup race lint fuzz bench vm generate clean

build: ## one static binary in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -X main.version=$(VERSION)' -o bin/cofferdam ./cmd/cofferdam

test: test-setup ## everything, with the real programs
	test/run

test-setup: ## install what the tests need from Debian packages and npm; says what
	test/setup

# Not those that start children in the launcher's memory: these are no threads that the
# detector knows, and it crashes in them.
race: test-setup
	$(GO) test -race -short $$($(GO) list ./internal/... | grep -v -e '/stage$$' -e '/boundary/native$$')

lint: ## gofmt, vet, staticcheck
	test/lint

fuzz: ## each fuzz target for a short time
	test/fuzz $(FUZZTIME)

bench: ## start, memory, network and overhead beside bare, bwrap and srt
	test/setup bench
	$(GO) run ./test/bench $(BENCHFLAGS)

vm: ## the program on Debian's kernel in QEMU; VMARCH=arm64 for the other processor
	test/vm/run $(VMARCH)

generate:
	$(GO) generate $(PKGS)

clean:
	rm -rf bin .cache
