package policy

// CheckFile reads one policy file, ours or another tool's, and reports what is
// wrong with it.
func CheckFile(file string) error {
	data, err := readFile(file)
	if err != nil {
		return err
	}
	if Foreign(data) != "" {
		_, _, _, err = Import(file, data)
		return err
	}
	_, err = Parse(file, data)
	return err
}

// ImportFile reads another tool's settings and gives them as a policy of ours.
func ImportFile(file string) (document []byte, kind string, findings []Finding, err error) {
	data, err := readFile(file)
	if err != nil {
		return nil, "", nil, err
	}
	if Foreign(data) == "" {
		return nil, "", nil, Problems{{File: file, Text: "neither Claude Code's nor srt's settings", Hint: "a policy of our own needs no import"}}
	}
	doc, kind, findings, err := Import(file, data)
	if err != nil {
		return nil, "", nil, err
	}
	return doc.Print(), kind, findings, nil
}
