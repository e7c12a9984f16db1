package policy

import "slices"

// srtRules are the keys of srt's settings file (sandbox-runtime 0.0.83). To add
// one: say here what becomes of it and put it into testdata/import/srt-all.json.
func srtRules() rules {
	return with(commonRules(), rules{
		"network": section(with(networkRules(), rules{
			"deniedDomainReasons":     toldEach(aString, Lossy, "the reason is not shown; the rule holds"),
			"filterRequest":           told(anything, Lossy, "a function of a program that uses srt's library; rules for requests go to network.rules"),
			"allowPlaintextHeaderSet": told(anything, Tightened, needsGateway), "stripResponseHeaders": told(anything, Lossy, needsGateway),
			"refuseOpaqueTunnels": told(anything, Lossy, needsGateway), "requireHostMatch": told(anything, Lossy, needsGateway),
			"ambiguousRequestTarget": told(aString, Lossy, needsGateway),
		})),
		"filesystem":               section(filesystemRules()),
		"credentials":              section(credentialRules),
		"allowPty":                 told(aBool, Ignored, "the inside has terminals of its own"),
		"mandatoryDenySearchDepth": told(aNumber, Tightened, "names are protected at every depth"),
		"seccomp":                  toldAll(Ignored, noHelper, map[string]shape{"applyPath": aString, "argv0": aString}),
		"javaAgentJarPath":         told(aString, Ignored, noHelper),
		"git":                      toldAll(Ignored, "git inside sees the user as the owner", map[string]shape{"safeDirectories": strs}),
		"windows": toldAll(Ignored, "Windows only", map[string]shape{
			"backend": aString, "sandboxUser": anything, "sublayerGuid": aString, "proxyPortRange": anything, "srtWin": aTable,
		}),
	})
}

func (im *importer) srt() {
	im.keys(&im.root, "", tables().srt, nil)
	if fs := membersOf(&im.root)["filesystem"]; fs != nil && !slices.ContainsFunc(im.doc.Filesystem.DenyRead, hidesHome) {
		im.find(fs, "filesystem", Tightened, readsAll)
	}
}

// readsAll: both tools let a command read whatever denyRead doesn't name.
const readsAll = "everything that denyRead does not name can be read there; here your home and whatever nobody allowed is hidden: what is needed goes to filesystem.allowRead"

func hidesHome(v Val[string]) bool { return samePath(v.V, "~") || v.V == "/" }
